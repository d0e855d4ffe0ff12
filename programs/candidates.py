"""Several versions of each step: the draft model samples them at once, the base model scores them at once,
and the best version is kept if it passes. Otherwise the base model writes the step, as in SpecReason (arXiv
2504.07891).

    python programs/candidates.py http://127.0.0.1:30001 http://127.0.0.1:30000 "What is 17 * 23?"

Forks run concurrently, and a server computes them as one batch. The versions share their prompt, which is
computed once. The steps are sampled: greedy decoding would write the same step each time.
"""

import sys

import sglang as sgl

from specreason_sgl import Endpoint, fork_to, score

INSTRUCTION = (
    "Reason step by step, with a blank line after each step. Put the final answer into \\boxed{} at the end."
)
QUESTION = "\n\nStep score (0 wrong, 9 right): "


@sgl.function  # not `n` but `versions`: SGLang's `run` has an argument named `n`
def candidates(
    s, question, draft, versions=4, threshold=7, token_budget=1024, step_tokens=256, answer_tokens=512
):
    s += sgl.user(f"{question}\n\n{INSTRUCTION}")
    s += sgl.assistant_begin()
    steps, judged, ended, lead = [], [], False, ""
    while not ended and token_budget > 0:
        s += lead
        max_tokens = min(step_tokens, token_budget)

        writers = list(fork_to(s, draft).fork(versions))
        for writer in writers:
            writer += sgl.gen("step", max_tokens=max_tokens, stop=["\n\n"], temperature=0.8)
        writers = [writer for writer in writers if writer["step"].strip()]
        judges = [s.fork(1)[0] for _ in writers]
        for judge, writer in zip(judges, writers, strict=True):
            # Averages over the digits rarely tie; digits often do.
            judge += writer["step"] + QUESTION + score("score", read="average")
        scores = [judge.get_meta_info("score")["score"] for judge in judges]
        best = max(range(len(writers)), key=scores.__getitem__, default=None)
        if best is not None and scores[best] >= threshold:
            writer = writers[best]
        else:
            writer = s.fork(1)[0]
            writer += sgl.gen("step", max_tokens=max_tokens, stop=["\n\n"], temperature=0)

        step, meta = writer["step"], writer.get_meta_info("step")
        matched = meta["finish_reason"].get("matched")
        lead = "\n\n" if matched == "\n\n" else ""  # a step that was cut goes on
        repeats = bool(steps) and step.strip() == steps[-1].strip() != ""
        ended = matched not in (None, "\n\n") or repeats or "\\boxed{" in step.replace("\\boxed{}", "")
        token_budget -= meta["completion_tokens"]
        steps.append(step)
        judged.append([(version["step"], value) for version, value in zip(writers, scores, strict=True)])
        s += step
    s += "\n\nFinal answer:"
    s += sgl.gen("answer", max_tokens=answer_tokens, temperature=0)
    s += sgl.assistant_end()
    s["steps"], s["judged"] = steps, judged


if __name__ == "__main__":
    draft_url, base_url, question = sys.argv[1:]
    state = candidates.run(question=question, draft=Endpoint(draft_url), backend=Endpoint(base_url))
    for step, versions in zip(state["steps"], state["judged"], strict=True):
        print(step, "\n  scores of the versions:", *(f"{value:.2f}" for _, value in versions), "\n")
    print("Final answer:", state["answer"])
