"""Drafting ahead of the judgement: the same chain of thought, and nothing left behind."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specreason_sgl.errors import DeadlineExceeded, ServerError
from specreason_sgl.reasoning.acceptance import FixedShare, Quantile
from specreason_sgl.reasoning.drafting import Drafter
from specreason_sgl.reasoning.run import Run
from specreason_sgl.reasoning.verifiers import QUESTION, Combined, Likelihood, SameMeaning, UtilityScore
from tests.reasoning.pair import Pair, aborted, chance
from tests.scripted import wait_until

TEXTS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "",
                " ",
                "A",
                "So it is 3.5 in all. Then 4.",
                "1. First. Next!",
                "é 🙂 好的。再来",
                "\\boxed{18}",
                "x\n y",
            ]
        ),
        st.text(st.sampled_from("ab .!?\n3é🙂好。"), max_size=24).filter(lambda text: "\n\n" not in text),
    ),
    min_size=2,
    max_size=6,
)
RULES = [5.0, 2.0, 8.0, FixedShare(0.6), Quantile(0.5)]
VERIFIERS = [
    UtilityScore(),
    UtilityScore(read="average", with_logprobs=True),
    Combined(((1.0, UtilityScore()), (0.5, Likelihood()))),
]


def what_was_decided(trace):
    steps = [
        (one.text, one.author, one.score, one.rejected, one.head, one.tokens, one.end) for one in trace.steps
    ]
    return steps, trace.stop, trace.answer, [[c.purpose for c in one.calls] for one in trace.steps]


def books(seed, texts):
    """What both models write and score, from the prompt alone."""

    def write(side, turn, most):
        dice = chance(seed, side, turn)
        tokens = dice.randrange(1, 9)
        # A turn that grew alike is told apart, so that few runs end by saying the same twice.
        text = dice.choice(texts) + dice.choice(["", " ", str(dice.randrange(999))])
        if tokens > most:
            return text[: max(len(text) // 2, 1)], "length", most
        return text, dice.choice(["delimiter"] * 12 + ["stray", "eos"]), tokens

    return write, lambda turn: chance(seed, "digit", turn).randrange(10)


def check_books(pair: Pair, trace):
    """Every token that was generated is in the trace once, and nothing is left running."""
    used = sum(call.completion_tokens for call in trace.calls)
    wasted = sum(call.completion_tokens for call in trace.wasted)
    assert used + wasted == pair.generated()
    assert pair.draft.in_flight() == pair.base.in_flight() == 0


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    texts=TEXTS,
    rule=st.sampled_from(RULES),
    verifier=st.sampled_from(VERIFIERS),
    salvage=st.sampled_from([None, -5.0]),
    first=st.integers(0, 2),
)
def test_every_lookahead_writes_the_same_steps(pair, seed, texts, rule, verifier, salvage, first):
    config = {"threshold": rule, "verifier": verifier, "salvage": salvage, "first_base_steps": first}
    pair.start_anew(*books(seed, texts))
    expected = pair.solve(**config)
    check_books(pair, expected)
    assert not expected.wasted
    for lookahead in (1, 2, 4):
        eager = chance(seed, lookahead).random() < 0.5
        pair.start_anew(*books(seed, texts))
        trace = pair.solve(**config, lookahead=lookahead, eager_rewrite=eager)
        assert what_was_decided(trace) == what_was_decided(expected), (lookahead, eager)
        check_books(pair, trace)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6), eager=st.booleans(), salvage=st.sampled_from([None, -5.0]))
def test_what_is_drafted_ahead_of_a_rejection_is_aborted(pair, seed, eager, salvage):
    texts = ["One thing. And more", "Two is 3.5 then. So", "Another one. It is"]
    plain_write, digit = books(seed, texts)

    def write(side, turn, most):  # a rewrite is never what the draft was
        text, end, tokens = plain_write(side, turn, most)
        return f"{text} ({side})", end, tokens

    config = {"threshold": 5, "salvage": salvage}
    pair.start_anew(write, digit)
    expected = pair.solve(**config)
    judged: dict[str, threading.Event] = {}
    due = []

    def event(turn):
        with pair.lock:
            return judged.setdefault(turn, threading.Event())

    def before(seen):
        turn = seen.turn.removesuffix("\n\n")
        if seen.purpose == "score":
            turn = seen.turn.removesuffix(QUESTION)
            event(turn).set()
        if seen.purpose != "draft" or seen.side != "draft" or turn not in drafts:
            return None
        # This one is ahead of a judgement: a rejection has to end it.
        if digit(turn) >= 5:
            event(turn).wait(20)
            return None
        due.append(seen.rid)
        wait_until(lambda: seen.rid in pair.aborted())
        return aborted()

    drafts = set()

    def noting(side, turn, most):
        text, end, tokens = write(side, turn, most)
        if side == "draft":
            drafts.add(turn + text)
        return text, end, tokens

    pair.start_anew(noting, digit, before)
    trace = pair.solve(**config, lookahead=1, eager_rewrite=eager)
    assert what_was_decided(trace) == what_was_decided(expected)
    check_books(pair, trace)
    assert set(due) <= pair.aborted()
    # None where it was aborted before it was sent.
    asked = {call.completion_tokens for call in trace.wasted if call.purpose == "draft"}
    assert asked <= {0, 2} or not due


def plain(side, turn, most):
    """The third step ends the turn."""
    number = turn.count("\n\n") + 1
    return f"{side} {number}", "eos" if number == 3 else "delimiter", 3


def test_the_next_step_is_drafted_while_one_is_judged(pair):
    drafted = threading.Event()
    late = []

    def before(seen):
        if seen.purpose == "draft" and seen.turn == "draft 1\n\n":
            drafted.set()
        if seen.purpose == "score" and seen.turn == "draft 1" + QUESTION and not drafted.wait(10):
            late.append(seen)

    pair.start_anew(plain, lambda turn: 9, before)
    assert pair.solve(lookahead=1).reasoning == "draft 1\n\ndraft 2\n\ndraft 3"
    assert not late


def test_no_step_is_drafted_further_ahead_than_the_lookahead(pair):
    ahead = []

    def before(seen):
        if seen.purpose == "draft":
            done = sum(one.purpose == "score" and one.tokens > 0 for one in pair.seen)
            ahead.append(seen.turn.count("\n\n") - done)

    for lookahead in (0, 1, 2):
        ahead.clear()
        pair.start_anew(lambda *_: (*plain(*_)[:1], "delimiter", 3), lambda turn: 9, before)
        pair.solve(lookahead=lookahead)
        assert max(ahead) <= lookahead
        if lookahead == 0:
            assert len(ahead) == 20  # the budget's; and none for nothing
            assert pair.aborted() == set()


def test_steps_that_wait_are_judged_at_once(pair):
    """The first score is held back until two more steps are there, these until both are asked for."""
    third, both = threading.Event(), threading.Barrier(2, timeout=10)

    def before(seen):
        if seen.purpose == "draft" and seen.turn == "draft 1\n\ndraft 2\n\ndraft 3\n\n":
            third.set()  # so the drafts 2 and 3 have been handed over
        if seen.purpose == "score":
            if seen.turn == "draft 1" + QUESTION:
                assert third.wait(10)
            elif seen.turn.count("\n\n") in (2, 3):
                both.wait()

    def write(side, turn, most):
        number = turn.count("\n\n") + 1
        return f"{side} {number}", "eos" if number == 4 else "delimiter", 3

    pair.start_anew(write, lambda turn: 9, before)
    trace = pair.solve(lookahead=3)
    assert trace.reasoning == "draft 1\n\ndraft 2\n\ndraft 3\n\ndraft 4"
    assert not both.broken


FAILS = (500, b'{"error": {"message": "boom"}}')


@pytest.mark.parametrize("purpose", ["draft", "score"])
@pytest.mark.parametrize("first", [True, False])
def test_what_fails_ahead_of_a_rejection_does_not_fail_the_run(pair, purpose, first):
    """The second step's request fails, and the first step is rejected; or else it is needed."""
    failed = threading.Event()

    def before(seen):
        if (
            seen.purpose == purpose
            and seen.turn.startswith("draft 1\n\n")
            and seen.turn != "draft 1" + QUESTION
        ):
            failed.set()
            return FAILS
        if seen.purpose == "score" and seen.turn == "draft 1" + QUESTION and purpose == "draft":
            assert failed.wait(10)
        return None

    pair.start_anew(plain, lambda turn: 3 if first and turn == "draft 1" else 9, before)
    if first:
        trace = pair.solve(lookahead=2)
        assert trace.reasoning == "base 1\n\ndraft 2\n\ndraft 3"
        check_books(pair, trace)
    else:
        if purpose == "draft":  # the base model does without it
            trace = pair.solve(lookahead=2)
            assert trace.reasoning == "draft 1\n\nbase 2\n\nbase 3"
            assert "status 500: boom" in trace.steps[1].undrafted
            check_books(pair, trace)
            return
        with pytest.raises(ServerError, match="boom"):
            pair.solve(lookahead=2)
        assert pair.draft.in_flight() == pair.base.in_flight() == 0


def test_a_failure_that_waits_behind_a_step_counts_when_its_turn_comes(pair):
    """Steps 2 and the failure of 3 are handed over while step 1 is in judgement; step 2 is rejected."""
    failed = threading.Event()

    def before(seen):
        if seen.purpose == "draft" and seen.turn == "draft 1\n\ndraft 2\n\n":
            failed.set()
            return FAILS
        if seen.purpose == "score" and seen.turn == "draft 1" + QUESTION:
            assert failed.wait(10)
            wait_until(lambda: pair.draft.in_flight() == 0)
        return None

    seen = []

    def solve(digit):
        failed.clear()
        seen.clear()
        pair.start_anew(plain, lambda turn: digit if turn.endswith("draft 2") else 9, before)
        return pair.solve(lookahead=2, on_step=seen.append)

    assert solve(3).reasoning == "draft 1\n\nbase 2\n\ndraft 3"
    assert solve(9).reasoning == "draft 1\n\ndraft 2\n\nbase 3"
    assert [step.text for step in seen] == ["draft 1", "draft 2", "base 3"]


def hanging(pair, hangs):
    """Requests that `hangs` chooses are answered when they are aborted."""

    def before(seen):
        if not hangs(seen):
            return None
        wait_until(lambda: seen.rid in pair.aborted())
        return aborted()

    return before


@pytest.mark.parametrize("config", [{}, {"eager_rewrite": True}, {"candidates": 3}, {"lookahead": 4}])
@pytest.mark.parametrize("side", ["draft", "base"])
def test_a_late_run_ends_all_its_threads_and_requests(pair, side, config):
    others = set(threading.enumerate())  # of states that other tests have left to the collector
    pair.start_anew(plain, lambda turn: 9)
    pair.solve(**config)  # connections and their threads on both sides
    before = threading.active_count()
    late = hanging(pair, lambda seen: seen.side == side and "draft 1" in seen.turn)
    pair.start_anew(plain, lambda turn: 9, late)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.5 s"):
        pair.solve(timeout=0.5, **{"lookahead": 1, **config})
    wait_until(lambda: pair.draft.in_flight() == pair.base.in_flight() == 0)
    wait_until(lambda: threading.active_count() <= before + 12, 10)
    wait_until(lambda: not [t for t in threading.enumerate() if is_ours(t) and t not in others], 10)


def is_ours(thread) -> bool:
    """A state's, a helper's, or one that asks for an abort again."""
    target = getattr(thread, "_target", None)
    return isinstance(thread, threading.Timer) or getattr(target, "__qualname__", "").startswith(
        ("Run.", "Context.run")
    )


@pytest.mark.parametrize("config", [{}, {"eager_rewrite": True}, {"candidates": 3}, {"lookahead": 4}])
def test_a_failure_ends_all_threads_and_aborts_all_requests(pair, config):
    others = set(threading.enumerate())  # of states that other tests have left to the collector
    ahead = threading.Event()

    def before(seen):
        if seen.purpose == "score":
            assert ahead.wait(10)
            return FAILS
        if seen.purpose == "draft" and seen.turn == "draft 1\n\n":
            ahead.set()
            wait_until(lambda: seen.rid in pair.aborted())
            return aborted()
        return None

    pair.start_anew(plain, lambda turn: 9, before)
    with pytest.raises(ServerError, match="boom"):
        pair.solve(**{"lookahead": 1, **config})
    wait_until(lambda: pair.draft.in_flight() == pair.base.in_flight() == 0)
    wait_until(lambda: not [t for t in threading.enumerate() if is_ours(t) and t not in others], 10)


def test_an_error_in_on_step_ends_what_is_drafted_ahead(pair):
    others = set(threading.enumerate())  # of states that other tests have left to the collector
    pair.start_anew(plain, lambda turn: 9, hanging(pair, lambda seen: seen.turn == "draft 1\n\n"))

    def broken(step):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        pair.solve(lookahead=1, on_step=broken)
    wait_until(lambda: pair.draft.in_flight() == pair.base.in_flight() == 0)
    wait_until(lambda: not [t for t in threading.enumerate() if is_ours(t) and t not in others], 10)


def test_a_rewrite_begun_early_is_aborted_where_the_step_is_kept(pair):
    begun = threading.Event()

    def before(seen):
        if seen.purpose == "rewrite":
            begun.set()
            wait_until(lambda: seen.rid in pair.aborted())
            return aborted(5)
        if seen.purpose == "score":
            assert begun.wait(10)  # the rewrite did not wait for the score
            begun.clear()
        return None

    pair.start_anew(plain, lambda turn: 9, before)
    trace = pair.solve(eager_rewrite=True)
    assert [step.author for step in trace.steps] == ["draft"] * 3
    assert [(c.side, c.purpose, c.completion_tokens) for c in trace.wasted] == [("base", "rewrite", 5)] * 3
    assert all(call.seconds > 0 and call.start < trace.seconds for call in trace.wasted)
    check_books(pair, trace)


def test_a_rewrite_begun_early_is_the_one_that_is_used(pair):
    pair.start_anew(plain, lambda turn: 0)
    trace = pair.solve(eager_rewrite=True)
    assert trace.reasoning == "base 1\n\nbase 2\n\nbase 3"
    assert len(pair.of("rewrite")) == 3
    assert not trace.wasted


class Candidates:
    """Three different versions of each step, handed out in order of arrival; the digit is in the text."""

    def __init__(self, *scores):
        self.scores, self.given, self.lock = scores, {}, threading.Lock()

    def write(self, side, turn, most):
        number = turn.count("\n\n") + 1
        if side == "base":
            return f"base {number}", "delimiter", 3
        with self.lock:
            nth = self.given[turn] = self.given.get(turn, -1) + 1
        return (
            f"draft {number} {self.scores[nth % len(self.scores)]}",
            "eos" if number == 3 else "delimiter",
            3,
        )

    def digit(self, turn):
        return int(turn[-1])


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_the_best_of_the_candidates_is_kept(pair, lookahead):
    one = Candidates(4, 8, 6)
    pair.start_anew(one.write, one.digit)
    trace = pair.solve(candidates=3, lookahead=lookahead, threshold=7)
    assert trace.reasoning == "draft 1 8\n\ndraft 2 8\n\ndraft 3 8"
    assert [[c.purpose for c in step.calls] for step in trace.steps] == [["draft"] * 3 + ["score"] * 3] * 3
    assert trace.wasted_tokens == 18 + sum(call.completion_tokens for call in trace.wasted)
    check_books(pair, trace)


@pytest.mark.parametrize("lookahead", [0, 1])
def test_no_candidate_that_passes_is_a_rejection_of_the_best(pair, lookahead):
    one = Candidates(4, 2, 6)
    pair.start_anew(one.write, one.digit)
    trace = pair.solve(candidates=3, lookahead=lookahead, threshold=7, token_budget=9)
    assert trace.reasoning == "base 1\n\nbase 2\n\nbase 3"
    assert [step.rejected for step in trace.steps] == ["draft 1 6", "draft 2 6", "draft 3 6"]
    assert [step.score for step in trace.steps] == [6, 6, 6]
    check_books(pair, trace)


def test_without_lookahead_nothing_is_drafted_after_a_version_that_is_not_kept(pair, monkeypatch):
    """The drafter goes on from the first version: it must not be told to where another is kept."""
    first_is_best, goes_on = [], []
    kept, take = Drafter.kept, Drafter.take

    def taking(self):
        taken = take(self)
        first_is_best.extend(versions[0].text.endswith("8") for versions in taken)
        return taken

    monkeypatch.setattr(Drafter, "take", taking)
    monkeypatch.setattr(Drafter, "kept", lambda self: (goes_on.append(True), kept(self)))
    one = Candidates(4, 8, 6)
    pair.start_anew(one.write, one.digit)
    trace = pair.solve(candidates=3, threshold=7)
    assert sum(goes_on) == sum(first_is_best)
    assert len(pair.of("draft")) == 9
    assert not trace.wasted
    assert not pair.aborted()


def test_candidates_that_are_aborted_are_all_counted_and_ended(pair, monkeypatch):
    """The next step's versions are aborted with the rejection."""
    all_there = threading.Barrier(4, timeout=60)
    first, drafting = [], set()
    own, done = Run.own, Run.done

    def owned(self, state, side="base"):
        if side == "draft":
            drafting.add(id(state))
        return own(self, state, side)

    def ended(self, state):
        done(self, state)
        drafting.discard(id(state))

    monkeypatch.setattr(Run, "own", owned)
    monkeypatch.setattr(Run, "done", ended)

    def before(seen):
        if seen.purpose == "score":
            if seen.turn == "draft 1 4" + QUESTION and not first:
                first.append(seen)
                all_there.wait()
        elif seen.purpose == "draft" and seen.turn.startswith("draft 1"):
            all_there.wait()
            wait_until(lambda: seen.rid in pair.aborted())
            return aborted(2)
        return None

    one = Candidates(4, 4, 4)
    pair.start_anew(one.write, one.digit, before)
    trace = pair.solve(
        candidates=3, lookahead=1, token_budget=6, on_step=lambda _: wait_until(lambda: not drafting)
    )
    assert trace.reasoning == "base 1\n\nbase 2"
    assert [call.completion_tokens for call in trace.wasted] == [2, 2, 2]
    check_books(pair, trace)


def test_the_first_steps_of_the_base_model_are_not_drafted(pair):
    pair.start_anew(plain, lambda turn: 9)
    trace = pair.solve(first_base_steps=2, lookahead=2)
    assert trace.reasoning == "base 1\n\nbase 2\n\ndraft 3"
    assert [one.turn for one in pair.of("draft")] == ["base 1\n\nbase 2\n\n"]
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
    pair.start_anew(lambda *_: (*plain(*_)[:1], "delimiter", 3), lambda turn: 9)
    trace = pair.solve(token_budget=6, at_budget="stop", lookahead=1)
    assert (trace.stop, trace.answer, trace.answer_call) == ("budget", "", None)
    assert not pair.of("answer")
    pair.start_anew(plain, lambda turn: 9)
    assert pair.solve(at_budget="stop").answer  # it ended before the budget did


@pytest.mark.parametrize("lookahead", [0, 1])
def test_a_stray_end_of_thinking_ends_only_the_step(pair, lookahead):
    def write(side, turn, most):
        text, end, tokens = plain(side, turn, most)
        return text, "stray" if end == "delimiter" else end, tokens

    pair.start_anew(write, lambda turn: 9)
    trace = pair.solve(lookahead=lookahead)
    assert trace.reasoning == "draft 1\n\ndraft 2\n\ndraft 3"
    assert [step.end for step in trace.steps] == ["delimiter", "delimiter", "eos"]


@pytest.mark.parametrize("lookahead", [0, 1, 3])
def test_a_step_of_the_base_models_own_stands_where_the_drafted_one_is_rejected(pair, lookahead):
    """It is written once: for the comparison and, after a rejection, for the chain of thought."""
    pair.start_anew(*books(3, [f"Step {i}." for i in range(8)]))
    trace = pair.solve(lookahead=lookahead, verifier=SameMeaning(), threshold=0.5, patience=0)
    assert trace.kept
    assert trace.rewritten
    for step in trace.steps:
        assert [call.purpose for call in step.calls].count("rewrite") == (step.author == "base")
    check_books(pair, trace)
    chain, used = "", 0
    for step in trace.steps:
        used += sum(one.purpose == "rewrite" and one.turn == chain for one in pair.seen)
        chain += step.text + "\n\n"
    assert used == len(trace.steps)
    if lookahead == 0:
        assert sum(call.purpose == "rewrite" for call in trace.wasted) == trace.kept


def test_a_step_of_the_base_models_own_is_not_written_twice_where_rewrites_begin_early(pair):
    pair.start_anew(plain, lambda turn: 0)
    trace = pair.solve(verifier=SameMeaning(), threshold=0.5, eager_rewrite=True)
    assert trace.reasoning == "base 1\n\nbase 2\n\nbase 3"
    assert len(pair.of("rewrite")) == 3
    check_books(pair, trace)


def test_the_base_models_own_steps_of_drafts_that_wait_are_written_side_by_side(pair):
    """As above; each is written after the drafts before it, and thrown away where its draft is kept."""
    third, both = threading.Event(), threading.Barrier(2, timeout=10)

    def before(seen):
        if seen.purpose == "draft" and seen.turn == "draft 1\n\ndraft 2\n\ndraft 3\n\n":
            third.set()
        if seen.purpose == "rewrite" and seen.turn == "":
            assert third.wait(10)
        if seen.purpose == "rewrite" and seen.turn in ("draft 1\n\n", "draft 1\n\ndraft 2\n\n"):
            both.wait()

    def write(side, turn, most):
        number = turn.count("\n\n") + 1
        return f"{side} {number}", "eos" if number == 4 else "delimiter", 3

    pair.start_anew(write, lambda turn: 9, before)
    trace = pair.solve(lookahead=3, verifier=SameMeaning(), threshold=0.5)
    assert trace.reasoning == "draft 1\n\ndraft 2\n\ndraft 3\n\ndraft 4"
    assert not both.broken
    assert sum(call.purpose == "rewrite" for call in trace.wasted) == 4
    check_books(pair, trace)
