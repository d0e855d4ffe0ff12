"""What must always hold, whatever the models write and the draft runtime does."""

import contextlib
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from specreason_sgl.reasoning.stopping import why_stop

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import is_paused
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.trace import Call, Step, Trace
from specreason_sgl.reasoning.verifiers import SameMeaning
from tests.reasoning.pair import aborted, chance
from tests.reasoning.test_pipelined import books, check_books, what_was_decided

SOME = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=60, deadline=None, derandomize=True)

FAILS = [
    (500, b'{"error": "boom"}'),
    (503, b""),
    (200, b"garbage"),
    (200, b'{"text": 3, "meta_info": {}}'),
    aborted(0),
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
COUNT = st.integers(0, 10**6)
SECONDS = st.floats(0, 1e6)
CALLS = st.builds(
    Call, st.sampled_from(["draft", "base"]), st.sampled_from(["draft", "score", "rewrite"]),
    COUNT, COUNT, COUNT, SECONDS, SECONDS,
)  # fmt: skip
STEPS = st.builds(
    Step,
    TEXT,
    st.sampled_from(["draft", "base", "both"]),
    st.sampled_from(["delimiter", "length", "eos", "think"]),
    COUNT,
    st.none() | st.floats(allow_nan=False),
    st.dictionaries(TEXT, st.floats(0, 1), max_size=3),
    st.none() | TEXT,
    st.integers(0, 30),
    st.lists(CALLS, max_size=2).map(tuple),
    st.none() | TEXT,
)
TRACES = st.builds(
    Trace,
    question=TEXT,
    mode=st.sampled_from(["specreason", "base", "draft"]),
    draft_model=st.none() | TEXT,
    base_model=st.none() | TEXT,
    config=st.just(SpecReasonConfig().as_dict()),
    steps=st.lists(STEPS, max_size=4).map(tuple),
    stop=st.sampled_from(["answer", "end", "repetition", "budget", "context", "failed"]),
    answer=TEXT,
    answer_call=st.none() | CALLS,
    seconds=SECONDS,
    wasted=st.lists(CALLS, max_size=2).map(tuple),
    earlier=st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), max_size=2).map(tuple),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@MANY
@given(TRACES)
def test_a_trace_written_and_read_is_the_same(trace):
    assert Trace.from_json(trace.to_json()) == trace
    assert trace.reasoning == "\n\n".join(step.text for step in trace.steps)


@MANY
@given(
    JSON, st.sampled_from([None, "steps", "answer_call", "wasted", "config", "version", "earlier"]), TRACES
)
def test_what_is_read_as_a_trace_is_one_or_is_refused(data, field, trace):
    text = json.dumps(data if field is None else {**json.loads(trace.to_json()), field: data})
    with contextlib.suppress(ConfigError):
        Trace.from_json(text)


@SOME
@given(
    seed=st.integers(0, 10**6),
    share=st.sampled_from([0.0, 0.15, 0.5, 1.0]),
    threshold=st.integers(0, 9),
    patience=st.integers(0, 3),
    candidates=st.sampled_from([1, 1, 2]),
    own=st.booleans(),
)
def test_runs_agree_whatever_fails_on_the_draft_side(pair, seed, share, threshold, patience, candidates, own):
    """A share of the drafts fails, each time at the same places. `own`: the base model writes each, too."""
    texts = ["One thing. And more", "Two is 3.5 then.", "", "é 🙂", "So it is"]
    config = {"threshold": threshold, "patience": patience, "candidates": candidates, "token_budget": 90}
    if own:
        config |= {"verifier": SameMeaning(), "threshold": 0.5}

    def before(seen):
        dice = chance(seed, "fault", seen.turn)
        return dice.choice(FAILS) if seen.side == "draft" and dice.random() < share else None

    found = []
    for lookahead, eager in ((0, False), (1, False), (3, True)):
        pair.start_anew(*books(seed, texts), before)
        trace = pair.solve(**config, lookahead=lookahead, eager_rewrite=eager)
        found.append(what_was_decided(trace))
        assert trace.answer
        assert Trace.from_json(trace.to_json()) == trace
        check_books(pair, trace)
        asked = [one.turn for one in pair.of("answer")]
        assert [turn.removesuffix("\n\nFinal answer:") for turn in asked] == [trace.reasoning]
    assert found == [found[0]] * 3


@SOME
@given(
    st.lists(st.tuples(TEXT, st.sampled_from(["delimiter", "length", "stray"])), min_size=1, max_size=5),
    st.integers(0, 9),
    st.integers(1, 20),
    st.integers(0, 1),
)
def test_the_stopping_rules_end_every_run(pair, texts, digit, budget, tokens):
    """Also where a server says that its steps have no tokens."""
    written = []

    def write(side, turn, most):
        written.append(side)
        return (*texts[len(written) % len(texts)], tokens)

    pair.start_anew(write, lambda turn: digit)
    trace = pair.solve(token_budget=budget)
    assert trace.answer
    assert len(trace.steps) <= budget


@MANY
@given(st.lists(STEPS, max_size=40), st.integers(1, 10))
def test_a_budget_is_the_most_steps_there_can_be(steps, budget):
    config = SpecReasonConfig(token_budget=budget)
    stops = [i for i in range(1, len(steps) + 1) if why_stop(steps[:i], config)]
    assert len(steps) < budget or min(stops) <= budget


@MANY
@given(st.lists(st.booleans(), max_size=120), st.integers(1, 8))
def test_drafts_for_nothing_are_few(good, patience):
    """Steps whose drafts would be kept, or not: of those rejected, all but a few have been paid for."""
    steps: list[Step] = []
    for kept in good:
        if is_paused(steps, patience):
            steps.append(Step("x", "base", "delimiter", 1))
        elif kept:
            steps.append(Step("x", "draft", "delimiter", 1))
        else:
            steps.append(Step("x", "base", "delimiter", 1, rejected="y"))
    rejected = sum(step.rejected is not None for step in steps)
    paid = 2 * sum(step.author == "draft" for step in steps)
    trials = sum(step.author == "base" and step.rejected is None for step in steps) / 4 + 1
    assert rejected <= patience + paid + trials
