"""Evaluation files with hand-made samples."""

from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.evaluation.records import Sample, run_head
from specreason_sgl.evaluation.settings import expand
from specreason_sgl.files import Record
from specreason_sgl.reasoning.trace import Call, Correction, Step, Trace

PROBLEMS = [Problem(f"p{i}", "q", "1") for i in range(4)]
KNOBS = {
    "temperature": [0.0], "token_budget": [40], "threshold": [5.0], "answer_tokens": [16],
    "window": ["step"],  # which requests read a text does not depend on time then
}  # fmt: skip


def trace(mode, seconds, steps="kr", wasted=0):
    """`steps`: k, a kept step of 4 tokens, scored 8; r, one of 3 that was rewritten in 10, scored 2; c, one
    of 5, of which one was corrected."""

    def call(side, purpose, tokens, took=0.1):
        return Call(side, purpose, 0, 0, tokens, 0.0, took)

    if mode in ("base", "draft"):
        chain = (Step("one", mode, "eos", 20, calls=(call(mode, "reason", 20, seconds - 1),)),)
        side = mode
    else:
        side, mode, kinds = "base", "specreason", []
        for kind in steps:
            score = call("base", "score", 1, 0.5)
            if kind == "c":
                fixed, calls = (
                    (Correction(0, "x", "c", 4.0, 0),),
                    (call("draft", "draft", 4), call("base", "read", 1)),
                )
                kinds.append(Step("c", "both", "delimiter", 5, 4, corrections=fixed, calls=calls))
            elif kind == "k":
                kinds.append(
                    Step("k", "draft", "delimiter", 4, 4, 8.0, calls=(call("draft", "draft", 4), score))
                )
            else:
                calls = (call("draft", "draft", 3), score, call("base", "rewrite", 10, 1.0))
                kinds.append(Step("r", "base", "delimiter", 10, 0, 2.0, {}, "no", calls=calls))
        chain = tuple(kinds)
    ahead = (call("draft", "draft", wasted),) if wasted else ()
    end = call(side, "answer", 2, 1.0)
    return Trace(
        question="q", mode=mode, draft_model="d", base_model="b", config={}, steps=chain, stop="end",
        answer="1", answer_call=end, seconds=seconds, wasted=ahead,
    )  # fmt: skip


def write(path, settings, done, **about):
    about = {"draft_model": "d", "base_model": "b", "samples": 2, "concurrency": 1, "seed": 0, **about}
    with Record(path, run_head(PROBLEMS, settings, data="x", **about), Sample) as record:
        for finished in done:
            record.add(finished)
    return path


def sample(problem, number, setting, right, trace):
    error = None if right is not None else "ServerError: gone"
    return Sample(f"p{problem}", number, setting, "1", right, error, trace)


def write_run(path):
    """Base: 4 s a sample; pipelined: 2 s on p0, 1 s on p1; and p2, which base has not."""
    settings = expand(("base", "draft", "pipelined"), KNOBS)
    samples = [sample(p, n, "base", p == 0, trace("base", 4)) for p in (0, 1) for n in (0, 1)]
    samples += [sample(p, 0, "draft", False, trace("draft", 2)) for p in (0, 1)]
    samples += [
        sample(0, 0, "pipelined", True, trace("pipelined", 2, "kkk")),
        sample(0, 1, "pipelined", False, trace("pipelined", 2, "kr")),
        sample(1, 0, "pipelined", True, trace("pipelined", 1, "kr", wasted=7)),
        sample(1, 1, "pipelined", None, None),
        sample(2, 0, "pipelined", True, trace("pipelined", 100, "r")),
    ]
    return write(path, settings, samples)
