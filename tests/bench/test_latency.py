"""The part `latency`, on servers that answer at once."""

import pytest

from specreason_sgl import SpecReasonConfig
from specreason_sgl.bench.latency import run
from specreason_sgl.bench.servers import STEP_TOKENS
from specreason_sgl.bench.setup import Bench, CorrectEvery
from specreason_sgl.reasoning.repair import Correct


def measure(zero, steps, **options):
    draft, base = zero
    config = SpecReasonConfig(token_budget=STEP_TOKENS * steps)
    bench = Bench(draft=draft, base=base, config=config, problems=["q"], acceptances=[0.5, 1.0], **options)
    return run(bench)


def test_latency_compares_modes_on_the_same_problem(zero):
    measured = measure(zero, steps=10, correct=CorrectEvery(every=40))
    assert [compared["acceptance"] for compared in measured["acceptances"]] == [0.5, 1.0]
    rows = {(row["acceptance"], row["mode"]): row for row in measured["runs"]}
    assert len(rows) == 10
    assert rows[0.5, "sequential"]["rewritten"] == rows[0.5, "pipelined"]["rewritten"] == 5
    assert rows[1.0, "pipelined"]["rewritten"] == 0
    for acceptance, compared in zip([0.5, 1.0], measured["acceptances"], strict=True):
        base, sequential, pipelined = (rows[acceptance, mode] for mode in ("base", "sequential", "pipelined"))
        # One request at a time, so the bound is the time in which there is one.
        covered = sequential["seconds"] * (1 - sequential["uncovered"])
        assert sequential["bound"] == pytest.approx(covered)
        assert compared["pipelined"]["to_base"] == pipelined["seconds"] / base["seconds"]
        assert compared["base"]["to_sequential"] == base["seconds"] / sequential["seconds"]
        assert compared["base"]["bound_ratio"] == base["bound"] / base["seconds"]


def test_corrections_are_timed_as_often_as_they_are_asked_for(zero):
    def corrections(correct):
        measured = measure(zero, steps=10, modes=["base", "correct"], correct=correct)
        first, second = [row for row in measured["runs"] if row["mode"] == "correct"]
        assert {**second, "acceptance": 0.5} == first  # it depends on no acceptance: one run
        assert (first["rewritten"], first["bound"]) == (0, None)
        assert first["prefills"] >= first["steps"]
        figures = measured["acceptances"][0]["correct"]
        assert figures["corrections"] == first["corrections"]
        assert "bound_ratio" not in figures
        return first["corrections"]

    assert corrections(Correct(numeric_delta=None)) == 0  # the server regrets nothing
    assert 0 < corrections(CorrectEvery(every=100)) < corrections(CorrectEvery(every=10))


def test_drafts_that_are_always_rejected_are_measured_with_the_pauses_of_every_day(zero):
    measured = measure(zero, steps=20, modes=["base", "rejected"])
    rows = [row for row in measured["runs"] if row["mode"] == "rejected"]
    assert [(row["steps"], row["rewritten"]) for row in rows] == [(20, 5)] * 2  # 1, 2, 3, 8 and 17
    assert measured["acceptances"][0]["rejected"]["to_base"] > 0
