"""What holds whatever the models write and whatever the draft runtime does."""

import contextlib
import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from specreason_sgl import Correct, Rewrite
from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.chain import Chain
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.pauses import USEFUL_TOKENS, is_paused
from specreason_sgl.reasoning.trace import Call, Correction, ReadToken, Step, Trace
from specreason_sgl.reasoning.verifiers import UtilityScore
from tests.support.checks import check_books, check_books_of_streams
from tests.support.pair import aborted, chance
from tests.support.writers import random_writer

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

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


def tuples(of):
    return st.lists(of, max_size=3).map(tuple)


CALLS = st.builds(
    Call, st.sampled_from(["draft", "base"]), st.sampled_from(["draft", "score", "read", "rewrite"]),
    COUNT, COUNT, COUNT, SECONDS, SECONDS,
)  # fmt: skip
CORRECTIONS = st.builds(Correction, COUNT, TEXT, TEXT, SECONDS, COUNT)
READINGS = st.builds(ReadToken, st.integers(-9, 9), TEXT, st.floats(-99, 0), TEXT, SECONDS)
STEPS = st.builds(
    Step, TEXT, st.sampled_from(["draft", "base", "both"]),
    st.sampled_from(["delimiter", "length", "eos", "think"]), COUNT, COUNT,
    st.none() | st.floats(allow_nan=False), st.dictionaries(TEXT, st.floats(0, 1), max_size=3),
    st.none() | TEXT, tuples(CORRECTIONS), tuples(READINGS), tuples(CALLS),
    st.sampled_from([None, "rejections", "failure", "breaker", "context", "load"]), TEXT,
)  # fmt: skip
TRACES = st.builds(
    Trace,
    question=TEXT,
    mode=st.sampled_from(["specreason", "base", "draft"]),
    draft_model=st.none() | TEXT,
    base_model=st.none() | TEXT,
    config=st.just(SpecReasonConfig().as_dict()),
    steps=tuples(STEPS),
    stop=st.sampled_from(["answer", "end", "repetition", "budget", "context", "failed"]),
    answer=TEXT,
    answer_call=st.none() | CALLS,
    seconds=SECONDS,
    wasted=tuples(CALLS),
    earlier=tuples(st.fixed_dictionaries({"role": TEXT, "content": TEXT})),
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
    assert "\n" not in trace.to_json()
    between = ["" if step.end == "length" else "\n\n" for step in trace.steps[:-1]] + [""]
    assert trace.reasoning == "".join(
        step.text + rest for step, rest in zip(trace.steps, between, strict=False)
    )


@MANY
@given(
    JSON, st.sampled_from([None, "steps", "answer_call", "wasted", "config", "version", "earlier"]), TRACES
)
def test_what_is_read_as_a_trace_is_one_or_is_refused(data, field, trace):
    text = json.dumps(data if field is None else {**json.loads(trace.to_json()), field: data})
    with contextlib.suppress(ConfigError):
        Trace.from_json(text)


WAYS = [
    {"repair": Rewrite(), "threshold": 3},
    {"repair": Rewrite(), "threshold": 7},
    {"repair": Correct(window="auto")},
    {"repair": Correct(window=2)},
    {"repair": Correct(window=None)},
    {"repair": Correct(window=None), "verifier": UtilityScore(), "threshold": 6},
]


def without_windows(trace):
    """The result of a run, without the number of reads, which depends on time."""
    steps = [
        (step.text, step.author, step.end, step.tokens, step.score, step.rejected, step.corrections)
        for step in trace.steps
    ]
    return steps, trace.stop, trace.answer


def check_state(pair, trace):
    """The base model's last prompt and the trace have the same chain of thought, and one delimiter after it;
    a chain that ends with an empty step has that delimiter already."""
    (turn,) = [request.turn for request in pair.of("answer")]
    assert turn == trace.reasoning.removesuffix("\n\n") + "\n\nFinal answer:"
    assert trace.tokens == sum(step.tokens for step in trace.steps) + trace.answer_call.completion_tokens
    assert all(0 <= step.draft_tokens <= step.tokens for step in trace.steps)


@SOME
@example(
    seed=1, share=0.0, way=WAYS[2], patience=0, step_tokens=500
)  # the base model writes tokens of no text
@example(seed=1, share=0.0, way=WAYS[4], patience=0, step_tokens=500)
@given(
    seed=st.integers(0, 10**6),
    share=st.sampled_from([0.0, 0.15, 0.5, 1.0]),
    way=st.sampled_from(WAYS),
    patience=st.integers(0, 3),
    step_tokens=st.sampled_from([6, 500]),
)
def test_runs_agree_whatever_fails_on_the_draft_side(pair, seed, share, way, patience, step_tokens):
    """A share of the drafts fails, at the same positions in each run."""
    texts = ["One thing. And more", "Two is 3.5 then.", "", "é 🙂", "So it is"]
    config = {**way, "patience": patience, "token_budget": 90, "step_tokens": step_tokens}
    tokens = [pair.base.tokenizer.encode(text, add_special_tokens=False)[0] for text in "xyz.8"]

    def before(request):
        dice = chance(seed, "fault", request.turn)
        return dice.choice(FAILS) if request.side == "draft" and dice.random() < share else None

    def first(ids, at):
        dice = chance(seed, "first", ids[max(at - 5, 0) : at + 1])
        return dice.choice(tokens) if dice.random() < 0.1 else None

    runs = []
    for lookahead in (0, 1, 3):
        pair.start_anew(*random_writer(seed, texts), before, first)
        trace = pair.solve(**config, lookahead=lookahead)
        runs.append(without_windows(trace))
        assert trace.answer
        assert Trace.from_json(trace.to_json()) == trace
        (check_books if config["repair"] == Rewrite() else check_books_of_streams)(pair, trace)
        check_state(pair, trace)
    assert runs[0] == runs[1] == runs[2]


@SOME
@given(
    st.lists(st.tuples(TEXT, st.sampled_from(["delimiter", "length", "stray"])), min_size=1, max_size=5),
    st.integers(0, 9),
    st.integers(1, 20),
    st.integers(0, 1),
)
def test_the_stopping_rules_end_every_run(pair, texts, digit, budget, tokens):
    """Even if a server reports no tokens for its steps."""
    written = []

    def write(side, turn, most):
        written.append(side)
        return (*texts[len(written) % len(texts)], tokens)

    for repair in (Rewrite(), Correct(window=None)):
        pair.start_anew(write, lambda turn: digit)
        trace = pair.solve(repair=repair, token_budget=budget)
        assert trace.answer
        assert len(trace.steps) <= budget


@MANY
@given(st.lists(STEPS, max_size=40), st.integers(1, 10))
def test_a_budget_bounds_the_number_of_steps(steps, budget):
    config = SpecReasonConfig(token_budget=budget)
    stops = [i for i in range(1, len(steps) + 1) if Chain(config, steps[:i]).why_stop()]
    assert len(steps) < budget or min(stops) <= budget


def test_what_is_drafted_after_a_correction_counts():
    corrections = (Correction(0, "", "", 9.0, 1),)
    early = Step("x", "both", "delimiter", 3, 1, corrections=corrections)
    goes_on = Step("x", "both", "delimiter", 9, 1 + USEFUL_TOKENS, corrections=corrections)
    assert is_paused([early] * 3, 3)
    assert not is_paused([goes_on] * 9, 3)


@MANY
@given(
    st.lists(st.sampled_from(["kept", "rejected", "corrected early", "corrected late"])), st.integers(1, 8)
)
def test_useless_drafts_are_few(drafts, patience):
    """Useful drafts pay for all but a few of the useless ones."""
    made = {
        "kept": Step("x", "draft", "delimiter", 1),
        "rejected": Step("x", "base", "delimiter", 1, rejected="y"),
        "corrected early": Step("x", "both", "delimiter", 1, corrections=(Correction(0, "", "", 9.0, 1),)),
        "corrected late": Step(
            "x", "both", "delimiter", 1, corrections=(Correction(0, "", "", 9.0, USEFUL_TOKENS),)
        ),
    }
    steps: list[Step] = []
    useless = useful = 0
    for draft in drafts:
        if is_paused(steps, patience):
            steps.append(Step("x", "base", "delimiter", 1))
        else:
            steps.append(made[draft])
            useful += draft in ("kept", "corrected late")
            useless += draft in ("rejected", "corrected early")
    assert useless or len(steps) == useful  # it never pauses
    trials = (len(steps) - useful - useless) / 4 + 1
    assert useless <= patience + 2 * useful + trials
