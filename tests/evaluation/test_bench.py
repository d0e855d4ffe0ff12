"""The arithmetic of the bench, and the parts of it that need no model."""

import pytest

from specreason_sgl import Endpoint, SpecReasonConfig, solve
from specreason_sgl.evaluation.bench import (
    CorrectEvery,
    PrefixShare,
    bound,
    measure_identity,
    measure_latency,
    measure_overhead,
    prefix_share,
    questions,
)
from specreason_sgl.evaluation.zero_server import zero_servers
from specreason_sgl.lang.logprobs import TokenLogprob
from specreason_sgl.reasoning.repair import Correct, Rewrite
from specreason_sgl.reasoning.trace import Call, Step, Trace


def step(author: str, draft: float, score: float, rewrite: float = 0.0) -> Step:
    times = [("draft", "draft", draft), ("base", "score", score), ("base", "rewrite", rewrite)]
    calls = tuple(Call(side, purpose, 0, 0, 0, 0.0, t) for side, purpose, t in times if t)
    return Step("x", author, "delimiter", 1, calls=calls)


def trace(*steps: Step) -> Trace:
    answer = Call("base", "answer", 0, 0, 0, 0.0, 1.0)
    return Trace(
        question="q", mode="specreason", draft_model="d", base_model="b", config={}, steps=steps, stop="end",
        answer="", answer_call=answer, seconds=100.0,
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


def test_prefix_share_counts_what_an_earlier_request_had():
    record = [([1, 2, 3], [4], 0), ([1, 2, 3, 4, 5], [], 3), ([1, 2, 9], [], 2)]
    assert prefix_share(record) == PrefixShare(prompt=11, seen=6, cached=5)


def test_questions_are_all_different():
    assert len(set(questions(64))) == 64


@pytest.fixture(scope="module")
def zero(chatml_folder):
    with zero_servers(chatml_folder) as urls, Endpoint(urls[0]) as draft, Endpoint(urls[1]) as base:
        yield draft, base


def test_about_every_nth_token_is_cut_whatever_its_regret_and_however_it_is_read():
    tokens = [TokenLogprob("x", -(i % 1000) / 1000, i % 7) for i in range(20_000)]
    repair = CorrectEvery(every=50)
    cuts, start = [], 0
    while (at := repair.cut(tokens[start:], 0.0)) is not None:
        cuts.append(start + at)
        start += at + 1
    assert len(cuts) == pytest.approx(20_000 / 50, rel=0.2)
    windows = [range(i, i + 16) for i in range(0, 20_000, 16)]
    first = [repair.cut(tokens[window.start : window.stop], 0.0) for window in windows]
    expected = [next((at - window.start for at in cuts if at in window), None) for window in windows]
    assert first == expected


@pytest.mark.parametrize("repair", ["rewrite", "correct"])
def test_overhead_is_measured_on_servers_that_answer_at_once(zero, repair):
    config = SpecReasonConfig(token_budget=32 * 4)
    figures = measure_overhead(*zero, config, at_once=8, problems=12, repair=repair)
    assert (figures["problems"], figures["repair"]) == (12, repair)
    assert figures["steps"] >= 12
    assert figures["cpu_ms_per_step"] > 0
    assert 0 <= figures["uncovered"] < 1


def test_latency_compares_modes_on_the_same_problem(zero):
    draft, base = zero
    config = SpecReasonConfig(token_budget=32 * 10)
    measured = measure_latency(
        ["q"], [0.5, 1.0], draft=draft, base=base, config=config, correct=CorrectEvery(every=40)
    )
    assert [compared["acceptance"] for compared in measured["acceptances"]] == [0.5, 1.0]
    rows = {(row["acceptance"], row["mode"]): row for row in measured["runs"]}
    assert len(rows) == 10
    assert rows[0.5, "sequential"]["rewritten"] == rows[0.5, "pipelined"]["rewritten"] == 5
    assert rows[1.0, "pipelined"]["rewritten"] == 0
    assert all(0 < row["bound"] <= row["seconds"] for row in rows.values() if row["mode"] == "sequential")
    assert measured["acceptances"][0]["base"].keys() >= {"seconds", "bound_ratio", "to_sequential"}


def test_corrections_are_timed_as_often_as_they_are_asked_for(zero):
    draft, base = zero
    common = {"draft": draft, "base": base, "config": SpecReasonConfig(token_budget=32 * 10)}

    def run(correct):
        measured = measure_latency(["q"], [0.5, 1.0], modes=["base", "correct"], correct=correct, **common)
        first, second = [row for row in measured["runs"] if row["mode"] == "correct"]
        assert {**second, "acceptance": 0.5} == first  # it depends on no acceptance: one run
        assert (first["rewritten"], first["bound"]) == (0, None)
        assert first["prefills"] >= first["steps"]
        figures = measured["acceptances"][0]["correct"]
        assert figures["corrections"] == first["corrections"]
        assert "bound_ratio" not in figures
        return first["corrections"]

    assert run(Correct()) == 0  # the server regrets nothing
    assert 0 < run(CorrectEvery(every=100)) < run(CorrectEvery(every=10))


def test_drafts_that_are_always_rejected_are_measured_with_the_pauses_of_every_day(zero):
    draft, base = zero
    config = SpecReasonConfig(token_budget=32 * 20)
    modes = ("base", "rejected")
    measured = measure_latency(["q"], [0.5, 1.0], draft=draft, base=base, config=config, modes=modes)
    rows = [row for row in measured["runs"] if row["mode"] == "rejected"]
    assert [(row["steps"], row["rewritten"]) for row in rows] == [(20, 5)] * 2  # 1, 2, 3, 8 and 17
    assert measured["acceptances"][0]["rejected"]["to_base"] > 0


def test_the_zero_latency_server_stops_with_the_block(chatml_folder):
    with zero_servers(chatml_folder, 1) as urls, Endpoint(urls[0]) as endpoint:
        config = SpecReasonConfig(repair=Rewrite(), token_budget=32)
        solve("q", draft=endpoint, base=endpoint, config=config)
    with pytest.raises(Exception, match="nobody answers"):
        Endpoint(urls[0])


def test_identity_compares_all_that_a_run_decides(zero):
    draft, base = zero
    config = SpecReasonConfig(token_budget=32 * 4)
    settings = [
        {"repair": "rewrite", "lookahead": 2},
        {"repair": "rewrite", "first_base_steps": 1},
        {"repair": "correct", "window": "auto", "lookahead": 1},
        {"repair": "correct", "window": 16, "first_base_steps": 1},
    ]
    common = {"draft": draft, "base": base, "config": config, "correct": CorrectEvery(every=20)}
    rows = measure_identity(questions(2), settings=settings, **common)
    assert [row["same"] for row in rows] == [2, 0, 2, 0]
    assert [different["step"] for different in rows[1]["different"]] == [0, 0]
    assert rows[3]["different"][0]["expected"] != rows[3]["different"][0]["actual"]
