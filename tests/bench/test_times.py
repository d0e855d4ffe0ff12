"""The arithmetic of a run's times."""

import pytest

from specreason_sgl.bench.times import bound, uncovered
from specreason_sgl.reasoning.trace import Call, Step, Trace


def step(author: str, draft: float, score: float, rewrite: float = 0.0) -> Step:
    times = [("draft", "draft", draft), ("base", "score", score), ("base", "rewrite", rewrite)]
    calls = tuple(Call(side, purpose, 0, 0, 0, 0.0, t) for side, purpose, t in times if t)
    return Step("x", author, "delimiter", 1, calls=calls)


def trace(*steps: Step) -> Trace:
    answer = Call("base", "answer", 0, 0, 0, 0.0, 1.0)
    return run_of(steps, answer, 100.0)


def run_of(steps, answer, seconds, wasted=()):
    return Trace(
        question="q", mode="specreason", draft_model="d", base_model="b", config={}, steps=steps, stop="end",
        answer="", answer_call=answer, seconds=seconds, wasted=wasted,
    )  # fmt: skip


def test_the_sequential_bound_is_the_sum_of_the_requests():
    assert (
        bound(trace(step("draft", 3, 1), step("base", 3, 1, 5), step("draft", 2, 1)), 0) == 3 + 1 + 9 + 3 + 1
    )


@pytest.mark.parametrize(
    ("steps", "lookahead", "expected"),
    [
        # Drafts of 3 hide scores of 1: the last score and the answer remain.
        ([step("draft", 3, 1)] * 3, 1, 9 + 1 + 1),
        # Scores of 3 hide drafts of 1.
        ([step("draft", 1, 3)] * 3, 1, 1 + 9 + 1),
        # One ahead: the third draft waits for the first decision, at 11.
        ([step("draft", 1, 10), step("draft", 1, 1), step("draft", 20, 1)], 1, 11 + 20 + 1 + 1),
        ([step("draft", 1, 10), step("draft", 1, 1), step("draft", 20, 1)], 2, 2 + 20 + 1 + 1),
        # After a rewritten step drafting begins anew.
        ([step("base", 3, 1, 5), step("draft", 3, 1)], 1, 9 + 4 + 1),
    ],
)
def test_the_overlapped_bound_is_the_critical_path(steps, lookahead, expected):
    assert bound(trace(*steps), lookahead) == expected


def test_uncovered_is_the_share_of_the_time_in_which_no_request_is_in_flight():
    first, beside, last = (Call("base", "read", 0, 0, 0, start, 2.0) for start in (1.0, 2.0, 9.0))
    steps = (Step("x", "draft", "delimiter", 1, calls=(first,)),)
    run = run_of(steps, None, 10.0, (last, beside))
    assert uncovered(run) == pytest.approx(1 - (3 + 1) / 10)
