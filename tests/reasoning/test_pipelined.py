"""Drafting ahead of the judgement: the chain of thought is the same, and nothing is left running."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specreason_sgl.errors import DeadlineExceeded, ServerError
from specreason_sgl.reasoning.acceptance import FixedShare, Quantile
from specreason_sgl.reasoning.repair import Correct
from specreason_sgl.reasoning.verifiers import QUESTION, Likelihood, UtilityScore
from tests.support.checks import check_books, what_was_decided
from tests.support.pair import aborted
from tests.support.waiting import wait_until
from tests.support.writers import FAILS, digit, number_of, random_writer, steps_of

THREE = steps_of(3)

ODD_TEXTS = ["", " ", "A", "So it is 3.5 in all. Then 4.", "1. First.", "é 🙂 好的。", "\\boxed{18}", "x\n y"]
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(ODD_TEXTS),
        st.text(st.sampled_from("ab .!?\n3é🙂好。"), max_size=24).filter(lambda text: "\n\n" not in text),
    ),
    min_size=2,
    max_size=6,
)
RULES = [5.0, 2.0, 8.0, FixedShare(0.6), Quantile(0.5)]
VERIFIERS = [
    UtilityScore(),
    UtilityScore(read_as="average", with_logprobs=True),
    Likelihood(reduce="min"),
]


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    texts=TEXTS,
    rule=st.sampled_from(RULES),
    verifier=st.sampled_from(VERIFIERS),
    first=st.integers(0, 2),
)
def test_every_lookahead_writes_the_same_steps(pair, seed, texts, rule, verifier, first):
    if isinstance(verifier, Likelihood) and isinstance(rule, float):
        rule = -rule
    config = {"threshold": rule, "verifier": verifier, "first_base_steps": first}
    pair.start_anew(*random_writer(seed, texts))
    expected = pair.solve(**config)
    check_books(pair, expected)
    assert not expected.wasted
    for lookahead in (1, 2, 4):
        pair.start_anew(*random_writer(seed, texts))
        trace = pair.solve(**config, lookahead=lookahead)
        assert what_was_decided(trace) == what_was_decided(expected), lookahead
        check_books(pair, trace)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6))
def test_what_is_drafted_ahead_of_a_rejection_is_aborted(pair, seed):
    texts = ["One thing. And more", "Two is 3.5 then. So", "Another one. It is"]
    plain_write, judge = random_writer(seed, texts)

    def write(side, turn, most):  # a rewrite always differs from the draft
        text, end, tokens = plain_write(side, turn, most)
        return f"{text} ({side})", end, tokens

    config = {"threshold": 5}
    pair.start_anew(write, judge)
    expected = pair.solve(**config)
    judged: dict[str, threading.Event] = {}
    due = []

    def event(turn):
        with pair.lock:
            return judged.setdefault(turn, threading.Event())

    def before(request):
        turn = request.turn.removesuffix("\n\n")
        if request.purpose == "score":
            turn = request.turn.removesuffix(QUESTION)
            event(turn).set()
        if request.purpose != "draft" or request.side != "draft" or turn not in drafts:
            return None
        # Drafted ahead of a judgement: a rejection must end it.
        if judge(turn) >= 5:
            event(turn).wait(20)
            return None
        due.append(request.rid)
        wait_until(lambda: request.rid in pair.aborted())
        return aborted()

    drafts = set()

    def noting(side, turn, most):
        text, end, tokens = write(side, turn, most)
        if side == "draft":
            drafts.add(turn + text)
        return text, end, tokens

    pair.start_anew(noting, judge, before)
    trace = pair.solve(**config, lookahead=1)
    assert what_was_decided(trace) == what_was_decided(expected)
    check_books(pair, trace)
    assert set(due) <= pair.aborted()
    wasted = [call.completion_tokens for call in trace.wasted if call.purpose == "draft"]
    assert [tokens for tokens in wasted if tokens] == [2] * len(due)  # 0: aborted before it was sent


def test_the_next_step_is_drafted_while_one_is_judged(pair):
    drafted = threading.Event()
    late = []

    def before(request):
        if request.purpose == "draft" and request.turn == "draft 1\n\n":
            drafted.set()
        if request.purpose == "score" and request.turn == "draft 1" + QUESTION and not drafted.wait(60):
            late.append(request)

    pair.start_anew(THREE, lambda turn: 9, before)
    assert pair.solve(lookahead=1).reasoning == "draft 1\n\ndraft 2\n\ndraft 3"
    assert not late


def test_models_that_take_turns_draft_in_the_programs_thread(pair, monkeypatch):
    threads = []
    monkeypatch.setattr(
        pair.draft.requests, "on_request", lambda record: threads.append(threading.current_thread())
    )
    pair.start_anew(steps_of(4), lambda turn: 9 if turn.endswith("2") else 3)
    assert pair.solve(lookahead=0).reasoning == "base 1\n\ndraft 2\n\nbase 3\n\nbase 4"
    assert threads == [threading.current_thread()] * 4


def test_no_step_is_drafted_further_ahead_than_the_lookahead(pair):
    ahead = []

    def before(request):
        if request.purpose == "draft":
            done = sum(request.purpose == "score" and request.tokens > 0 for request in pair.seen)
            ahead.append(request.turn.count("\n\n") - done)

    for lookahead in (0, 1, 2):
        ahead.clear()
        pair.start_anew(steps_of(99), lambda turn: 9, before)
        pair.solve(lookahead=lookahead)
        assert max(ahead) <= lookahead
        if lookahead == 0:
            assert len(ahead) == 20  # as the budget allows; none is wasted
            assert pair.aborted() == set()


def test_waiting_steps_are_judged_concurrently_and_a_needless_score_is_aborted_and_counted(pair):
    """The first score waits for two more drafts, and their scores until both are requested."""
    third, both = threading.Event(), threading.Barrier(2, timeout=60)

    def before(request):
        if request.purpose == "draft" and request.turn == "draft 1\n\ndraft 2\n\ndraft 3\n\n":
            third.set()  # drafts 2 and 3 have been taken
        if request.purpose == "score" and number_of(request) == 1:
            assert third.wait(60)
        elif request.purpose == "score" and number_of(request) < 4 and "draft 2" in request.turn:
            both.wait()
            if number_of(request) == 3:  # and draft 2 is rejected
                wait_until(lambda: request.rid in pair.aborted())
                return aborted(2)
        return None

    pair.start_anew(steps_of(4), digit, before)
    trace = pair.solve(lookahead=3)
    assert trace.reasoning == "draft 1\n\nbase 2\n\ndraft 3\n\ndraft 4"
    assert 2 in [call.completion_tokens for call in trace.wasted if call.purpose == "score"]
    check_books(pair, trace)


@pytest.mark.parametrize("purpose", ["draft", "score"])
def test_a_failure_ahead_of_a_rejection_does_not_fail_the_run(pair, purpose):
    """The second step's request fails. It is not needed if the first step is rejected."""
    failed = threading.Event()

    def before(request):
        is_first = request.turn == "draft 1" + QUESTION
        if request.purpose == purpose and request.turn.startswith("draft 1\n\n") and not is_first:
            failed.set()
            return FAILS
        if is_first and purpose == "draft":
            assert failed.wait(60)
        return None

    pair.start_anew(THREE, lambda turn: 3 if turn == "draft 1" else 9, before)
    trace = pair.solve(lookahead=2)
    assert trace.reasoning == "base 1\n\ndraft 2\n\ndraft 3"
    check_books(pair, trace)
    failed.clear()
    pair.start_anew(THREE, lambda turn: 9, before)
    if purpose == "draft":  # the base model continues without it
        trace = pair.solve(lookahead=2)
        assert trace.reasoning == "draft 1\n\nbase 2\n\nbase 3"
        assert "status 500: boom" in trace.steps[1].undrafted_detail
        check_books(pair, trace)
    else:
        with pytest.raises(ServerError, match="boom"):
            pair.solve(lookahead=2)
        wait_until(lambda: pair.draft.in_flight() == pair.base.in_flight() == 0)


def test_a_failure_that_waits_behind_a_step_counts_when_its_turn_comes(pair):
    """Step 2 and the failure of step 3 arrive while step 1 is being judged; step 2 is rejected."""
    failed = threading.Event()

    def before(request):
        if request.purpose == "draft" and request.turn == "draft 1\n\ndraft 2\n\n":
            failed.set()
            return FAILS
        if request.purpose == "score" and request.turn == "draft 1" + QUESTION:
            assert failed.wait(60)
            wait_until(lambda: pair.draft.in_flight() == 0)
        return None

    steps = []

    def solve(second):
        failed.clear()
        steps.clear()
        pair.start_anew(THREE, lambda turn: second if turn.endswith("draft 2") else 9, before)
        return pair.solve(lookahead=2, on_step=steps.append)

    assert solve(3).reasoning == "draft 1\n\nbase 2\n\ndraft 3"
    assert solve(9).reasoning == "draft 1\n\ndraft 2\n\nbase 3"
    assert [step.text for step in steps] == ["draft 1", "draft 2", "base 3"]


def hanging(pair, hangs):
    """Requests that `hangs` selects are answered only when they are aborted."""

    def before(request):
        if not hangs(request):
            return None
        wait_until(lambda: request.rid in pair.aborted())
        return aborted()

    return before


@pytest.mark.parametrize("config", [{}, {"lookahead": 4}, {"repair": Correct(window=1)}])
@pytest.mark.parametrize("side", ["draft", "base"])
def test_a_run_ends_all_its_threads_and_requests_and_a_late_one_too(pair, side, config):
    others = client_threads()
    pair.start_anew(THREE, lambda turn: 9)
    pair.solve(**config)  # starts the connections and their threads
    check_ended(pair, others)
    before = threading.active_count()
    late = hanging(pair, lambda request: request.side == side and "draft 1" in request.turn)
    pair.start_anew(THREE, lambda turn: 9, late)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.5 s"):
        pair.solve(timeout=0.5, **{"lookahead": 1, **config})
    wait_until(lambda: threading.active_count() <= before + 12)
    check_ended(pair, others)


def client_threads() -> set[threading.Thread]:
    """All threads of this process but those in which the scripted servers answer. Before a run: of states
    that other tests have left to the collector."""
    return {thread for thread in threading.enumerate() if "process_request_thread" not in thread.name}


def check_ended(pair, others):
    wait_until(lambda: pair.draft.in_flight() == pair.base.in_flight() == 0)
    wait_until(lambda: client_threads() <= others)


@pytest.mark.parametrize("config", [{}, {"lookahead": 4}, {"repair": Correct(window=1)}])
def test_a_failure_ends_all_threads_and_aborts_all_requests(pair, config):
    others = client_threads()
    ahead = threading.Event()

    def before(request):
        if request.purpose in ("score", "read"):
            assert ahead.wait(60)
            return FAILS
        if request.purpose == "draft" and request.turn == "draft 1\n\n":
            ahead.set()
            wait_until(lambda: request.rid in pair.aborted())
            return aborted()
        return None

    pair.start_anew(THREE, lambda turn: 9, before)
    with pytest.raises(ServerError, match="boom"):
        pair.solve(**{"lookahead": 1, **config})
    check_ended(pair, others)


def test_an_error_in_on_step_ends_what_is_drafted_ahead(pair):
    others = client_threads()
    pair.start_anew(THREE, lambda turn: 9, hanging(pair, lambda request: request.turn == "draft 1\n\n"))

    def broken(step):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        pair.solve(lookahead=1, on_step=broken)
    check_ended(pair, others)


def test_the_first_steps_of_the_base_model_are_not_drafted(pair):
    pair.start_anew(THREE, lambda turn: 9)
    trace = pair.solve(first_base_steps=2, lookahead=2)
    assert trace.reasoning == "base 1\n\nbase 2\n\ndraft 3"
    assert [request.turn for request in pair.of("draft")] == ["base 1\n\nbase 2\n\n"]
    assert not trace.wasted


@pytest.mark.parametrize("lookahead", [0, 2])
def test_the_budget_counts_what_is_drafted_ahead(pair, lookahead):
    def write(side, turn, most):
        number = turn.count("\n\n") + 1
        return (f"{side} {number}", "delimiter", 3) if most >= 3 else ("cut", "length", most)

    pair.start_anew(write, lambda turn: 9)
    trace = pair.solve(token_budget=8, lookahead=lookahead)
    assert [(step.text, step.tokens) for step in trace.steps] == [("draft 1", 3), ("draft 2", 3), ("cut", 2)]
    assert trace.stop == "budget"
    assert trace.answer
    assert not trace.wasted


def test_a_run_can_stop_at_the_budget_without_an_answer(pair):
    pair.start_anew(steps_of(99), lambda turn: 9)
    trace = pair.solve(token_budget=6, at_budget="stop", lookahead=1)
    assert (trace.stop, trace.answer, trace.answer_call) == ("budget", "", None)
    assert not pair.of("answer")
    pair.start_anew(THREE, lambda turn: 9)
    assert pair.solve(at_budget="stop").answer  # it ends before the budget is used up


@pytest.mark.parametrize("lookahead", [0, 1])
def test_a_stray_end_of_thinking_ends_only_the_step(pair, lookahead):
    def write(side, turn, most):
        text, end, tokens = THREE(side, turn, most)
        return text, "stray" if end == "delimiter" else end, tokens

    pair.start_anew(write, lambda turn: 9)
    trace = pair.solve(lookahead=lookahead)
    assert trace.reasoning == "draft 1\n\ndraft 2\n\ndraft 3"
    assert [step.end for step in trace.steps] == ["delimiter", "delimiter", "eos"]
