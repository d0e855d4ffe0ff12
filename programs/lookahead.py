"""SpecReason (arXiv 2504.07891) with both models at work: the draft model writes step k+1 while the base
model scores step k. The steps and scores are those of programs/specreason.py.

    python programs/lookahead.py http://127.0.0.1:30001 http://127.0.0.1:30000 "What is 17 * 23?"

An SGLang state works in its own thread: `+=` submits work and returns, reading a result waits. So the program
submits the draft model's next step before it reads the score. A rejection aborts that step.
"""

import sys

import sglang as sgl

from specreason_sgl import Endpoint, fork_to, score

INSTRUCTION = (
    "Reason step by step, with a blank line after each step. Put the final answer into \\boxed{} at the end."
)
QUESTION = "\n\nStep score (0 wrong, 9 right): "


def gen_step(name, max_tokens):
    return sgl.gen(name, max_tokens=max_tokens, stop=["\n\n"], temperature=0)


def lead_after(meta):
    return "\n\n" if meta["finish_reason"].get("matched") == "\n\n" else ""  # a step that was cut goes on


def is_last(step, meta, steps):
    end_of_turn = meta["finish_reason"].get("matched") not in (None, "\n\n")
    repeats = bool(steps) and step.strip() == steps[-1].strip() != ""
    return end_of_turn or repeats or "\\boxed{" in step.replace("\\boxed{}", "")


@sgl.function
def lookahead(s, question, draft, threshold=7, token_budget=1024, step_tokens=256, answer_tokens=512):
    s += sgl.user(f"{question}\n\n{INSTRUCTION}")
    s += sgl.assistant_begin()
    steps, digits, ended, writer, lead = [], [], False, None, ""
    while not ended and token_budget > 0:
        name, next_name = f"step{len(steps)}", f"step{len(steps) + 1}"
        s += lead
        if writer is None:  # at the start and after a rejection; otherwise it is already writing this step
            writer = fork_to(s, draft)
            writer += gen_step(name, min(step_tokens, token_budget))

        step, meta = writer[name], writer.get_meta_info(name)
        kept = False
        if step.strip():
            judge = s.fork(1)[0]
            judge += step + QUESTION + score("score")
            left = token_budget - meta["completion_tokens"]
            if left > 0 and not is_last(step, meta, steps):
                # As if this step were kept.
                writer += lead_after(meta) + gen_step(next_name, min(step_tokens, left))
            digits.append(judge["score"])  # waits for the base model
            kept = int(judge["score"]) >= threshold
        if not kept:
            draft.abort(writer)  # it continues a step that was rejected
            writer = None
            rewriter = s.fork(1)[0]
            rewriter += gen_step(name, min(step_tokens, token_budget))
            step, meta = rewriter[name], rewriter.get_meta_info(name)

        ended, lead = is_last(step, meta, steps), lead_after(meta)
        token_budget -= meta["completion_tokens"]
        steps.append(step)
        s += step
    s += "\n\nFinal answer:"
    s += sgl.gen("answer", max_tokens=answer_tokens, temperature=0)
    s += sgl.assistant_end()
    s["steps"], s["digits"] = steps, digits


if __name__ == "__main__":
    draft_url, base_url, question = sys.argv[1:]
    state = lookahead.run(question=question, draft=Endpoint(draft_url), backend=Endpoint(base_url))
    print("\n\n".join(state["steps"]), "\n\nFinal answer:", state["answer"])
