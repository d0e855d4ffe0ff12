"""SpecReason (arXiv 2504.07891) as a plain SGLang program: stock `sgl`, plus `fork_to` and `score`.

    python programs/specreason.py http://127.0.0.1:30001 http://127.0.0.1:30000 "What is 17 * 23?"

The first server runs the draft model, the second the base model. Greedy decoding, for instruct models.
`specreason_sgl.speculate` adds sampling, thinking models, deadlines and the trace; there the base model also
judges where the draft model ends its turn.
"""

import sys

import sglang as sgl

from specreason_sgl import Endpoint, fork_to, score

INSTRUCTION = (
    "Reason step by step, with a blank line after each step. Put the final answer into \\boxed{} at the end."
)
QUESTION = "\n\nStep score (0 wrong, 9 right): "


@sgl.function
def specreason(s, question, draft, threshold=7, token_budget=1024, step_tokens=256, answer_tokens=512):
    s += sgl.user(f"{question}\n\n{INSTRUCTION}")
    s += sgl.assistant_begin()
    steps, digits, ended, lead = [], [], False, ""
    while not ended and token_budget > 0:
        s += lead
        next_step = sgl.gen("step", max_tokens=min(step_tokens, token_budget), stop=["\n\n"], temperature=0)

        writer = fork_to(s, draft)  # the same conversation on the draft server, in that model's template
        writer += next_step
        kept = False
        if writer["step"].strip():
            judge = s.fork(1)[0]
            judge += writer["step"] + QUESTION
            judge += score("score")  # one token; the prompt before the step is in the radix cache
            digits.append(judge["score"])
            kept = int(judge["score"]) >= threshold
        if not kept:
            writer = s.fork(1)[0]
            writer += next_step

        step, meta = writer["step"], writer.get_meta_info("step")
        matched = meta["finish_reason"].get("matched")
        lead = "\n\n" if matched == "\n\n" else ""  # a step that was cut goes on
        repeats = bool(steps) and step.strip() == steps[-1].strip() != ""
        ended = matched not in (None, "\n\n") or repeats or "\\boxed{" in step.replace("\\boxed{}", "")
        token_budget -= meta["completion_tokens"]
        steps.append(step)
        s += step
    s += "\n\nFinal answer:"
    s += sgl.gen("answer", max_tokens=answer_tokens, temperature=0)
    s += sgl.assistant_end()
    s["steps"], s["digits"] = steps, digits


if __name__ == "__main__":
    draft_url, base_url, question = sys.argv[1:]
    state = specreason.run(question=question, draft=Endpoint(draft_url), backend=Endpoint(base_url))
    print("\n\n".join(state["steps"]), "\n\nFinal answer:", state["answer"])
