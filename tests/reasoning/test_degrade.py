"""A draft runtime that fails or writes useless drafts costs speed, never the run."""

import logging
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from specreason_sgl import Rewrite, SpecReasonConfig, solve
from specreason_sgl.reasoning import pauses
from specreason_sgl.reasoning.pauses import Breaker, is_paused
from specreason_sgl.reasoning.trace import Step
from tests.support.checks import check_books
from tests.support.pair import aborted
from tests.support.scripted import half_an_answer, hang_up
from tests.support.waiting import wait_until
from tests.support.writers import number_of, steps_of

FAULTS = {
    "an error": (500, b'{"error": {"message": "boom"}}'),
    "refused": (401, b"{}"),
    "bytes": (200, b"\xff\xfe\x00garbage"),
    "half an answer": half_an_answer,
    "a broken connection": hang_up,
    "an abort": aborted(0),
}


@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_base_model_continues_without_a_failed_draft(pair, caplog, fault, lookahead):
    def before(request):
        return FAULTS[fault] if request.purpose == "draft" and number_of(request) == 2 else None

    pair.start_anew(steps_of(5), lambda turn: 9, before)
    with caplog.at_level(logging.WARNING, "specreason_sgl"):
        trace = pair.solve(lookahead=lookahead)
    # Step 2 fails, steps 3 and 4 are the pause, step 5 is drafted again.
    assert trace.reasoning == "draft 1\n\nbase 2\n\nbase 3\n\nbase 4\n\ndraft 5"
    assert trace.answer
    assert (trace.steps[1].undrafted, trace.steps[2].undrafted) == ("failure", "breaker")
    assert pair.draft.base_url in trace.steps[1].undrafted_detail
    assert trace.steps[1].undrafted_reason.startswith("the draft runtime failed: ")
    assert trace.steps[2].undrafted_reason == "a pause after the draft runtime failed"
    assert [step.undrafted for step in trace.steps[::4]] == [None, None]
    said = [record.message for record in caplog.records]
    assert any("is not used for the next 2 steps" in message for message in said)
    assert said[-1] == f"{pair.draft.base_url} works again"
    wait_until(lambda: pair.draft.in_flight() == pair.base.in_flight() == 0)


def test_a_hanging_draft_is_aborted(pair):
    hung = []

    def before(request):
        if request.purpose != "draft" or number_of(request) > 1:
            return None
        hung.append(request.rid)
        wait_until(lambda: request.rid in pair.aborted())
        return aborted()

    pair.start_anew(steps_of(4), lambda turn: 9, before)
    trace = pair.solve(lookahead=1, draft_timeout=0.3)
    assert trace.reasoning == "base 1\n\nbase 2\n\nbase 3\n\ndraft 4"
    assert len(hung) == 1
    assert trace.steps[0].calls[-1].start >= 0.3
    assert re.search(r"did not answer within 0\.(3|29\d*) s", trace.steps[0].undrafted_detail)


def test_concurrent_runs_share_the_state_of_a_dead_runtime(pair):
    """One run sees the failure; of the runs that start after it, only a trial asks again."""
    pair.start_anew(
        steps_of(3), lambda turn: 9, lambda request: FAULTS["an error"] if request.side == "draft" else None
    )
    pair.solve()
    asked = len(pair.of("draft"))
    config = SpecReasonConfig(repair=Rewrite(), temperature=0, token_budget=60)
    with ThreadPoolExecutor(16) as pool:
        runs = [
            pool.submit(solve, f"q{i}", draft=pair.draft, base=pair.base, config=config) for i in range(64)
        ]
        traces = [run.result() for run in runs]
    assert all(trace.reasoning == "base 1\n\nbase 2\n\nbase 3" for trace in traces)
    # 192 steps: pauses of 2, 4, 8, 16 and then 32 steps. Each draft is requested twice.
    assert len(pair.of("draft")) - asked <= 2 * (3 + 192 / 32 + 1)


def test_a_trial_doubles_the_pause_and_success_ends_it(monkeypatch):
    breaker = Breaker("x")
    assert breaker.ask() == "closed"
    breaker.failed(OSError("a"), trial=False)
    breaker.failed(OSError("b"), trial=False)  # it was in flight
    assert [breaker.ask() for _ in range(4)] == ["open", "open", "trial", "open"]
    breaker.failed(OSError("c"), trial=True)
    assert [breaker.ask() for _ in range(5)] == ["open"] * 4 + ["trial"]
    breaker.abandon_trial()
    assert breaker.ask() == "trial"
    assert breaker.timeout(60) == 15
    breaker.succeeded()
    assert (breaker.ask(), breaker.timeout(60)) == ("closed", 60)
    breaker.failed(OSError("d"), trial=False)
    monkeypatch.setattr(pauses.time, "monotonic", lambda: 1e12)
    assert breaker.ask() == "trial"  # a pause also ends after some time


@pytest.mark.parametrize("lookahead", [0, 1, 3])
def test_drafting_pauses_after_rejections_and_is_tried_again(pair, lookahead):
    pair.start_anew(steps_of(30), lambda turn: 0)
    trace = pair.solve(lookahead=lookahead, token_budget=1000)
    drafted = [i for i, step in enumerate(trace.steps, 1) if step.rejected is not None]
    assert drafted == [1, 2, 3, 8, 17]  # pauses of 4, 8 and 16 steps
    assert trace.steps[3].undrafted == "rejections"
    assert len(trace.steps) == 30
    check_books(pair, trace)


def test_a_kept_step_pays_for_rejected_ones(pair):
    kept = {1, 2, 9}

    def digit(turn):
        return 9 if int(turn.split()[-1]) in kept else 0

    pair.start_anew(steps_of(20), digit)
    trace = pair.solve(token_budget=1000)
    fates = "".join("k" if s.author == "draft" else "-" if s.undrafted else "r" for s in trace.steps)
    assert fates == "kkrrrrrrkrrr----r---"
    pair.start_anew(steps_of(20), digit)
    trace = pair.solve(token_budget=1000, patience=0)
    assert not any(step.undrafted for step in trace.steps)


def test_few_steps_are_drafted_if_every_draft_is_rejected():
    """The share of drafted steps bounds the cost of useless drafts, whatever a draft and a score cost."""
    steps = []
    for _ in range(200):
        rejected = None if is_paused(steps, 3) else "x"
        steps.append(Step("a", "base", "delimiter", 1, rejected=rejected))
    assert sum(step.rejected is not None for step in steps) <= 0.05 * len(steps)
