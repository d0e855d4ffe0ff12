"""Correction on real runtimes: two vocabularies, two templates."""

from dataclasses import replace

import pytest

from programs.correct import correct
from specreason_sgl import Correct, Endpoint, SpecReasonConfig, Trace, solve, solve_alone
from tests.support.runtimes import flush_caches
from tests.support.ties import assert_near_tie

QUESTION = "A shop has 17 boxes with 12 pens each. It sells 50 pens. How many pens are left?"
CONFIG = SpecReasonConfig(
    repair=Correct(window=8), temperature=0, patience=0, token_budget=30, step_tokens=20, answer_tokens=4
)


def test_at_delta_0_the_text_is_the_base_models_own(draft, base):
    flush_caches(draft, base)
    config = replace(CONFIG, repair=Correct(delta=0, window=8))
    trace = solve(QUESTION, draft=draft, base=base, config=config)
    flush_caches(base)
    alone = solve_alone(QUESTION, endpoint=base, config=config)
    print(trace.corrections, trace.reasoning)
    assert trace.corrections > 0
    assert trace.wasted_tokens > 0
    expected = alone.reasoning[: len(trace.reasoning)]
    if trace.reasoning != expected:
        assert_near_tie(base, CONFIG, QUESTION, "", trace.reasoning, expected)


def test_a_delta_without_bound_is_the_draft_models_text(draft, base):
    flush_caches(draft, base)
    trace = solve(
        QUESTION,
        draft=draft,
        base=base,
        config=replace(CONFIG, repair=Correct(delta=1e9, numeric_delta=None)),
    )
    flush_caches(draft)
    alone = solve_alone(QUESTION, endpoint=draft, side="draft", config=CONFIG)
    assert trace.corrections == 0
    length = min(len(trace.reasoning), len(alone.reasoning))
    assert trace.reasoning[:length] == alone.reasoning[:length]


@pytest.fixture(scope="module")
def chain(pair):
    """What programs/correct.py writes, from empty caches."""
    with Endpoint(pair.draft) as draft, Endpoint(pair.base) as base:
        flush_caches(draft, base)
        budgets = {"token_budget": 30, "step_tokens": 12, "answer_tokens": 4}
        return correct.run(question=QUESTION, draft=draft, backend=base, **budgets)["chain"]


@pytest.mark.parametrize("window", [4, "auto", None])
def test_a_window_decides_when_things_happen_and_not_what_is_written(draft, base, chain, window):
    flush_caches(draft, base)
    trace = solve(
        QUESTION,
        draft=draft,
        base=base,
        config=replace(CONFIG, repair=Correct(window=window, numeric_delta=None)),
    )
    text = chain.removesuffix("\n\n")
    length = min(len(text), len(trace.reasoning))
    texts = trace.reasoning[:length], text[:length]
    if len(set(texts)) > 1:
        # Either model can meet a tie, and the base model a regret that is about delta.
        assert_near_tie((draft, base), CONFIG, QUESTION, "", *texts, margins=(0.0, CONFIG.repair.delta))
    assert Trace.from_json(trace.to_json()) == trace


def test_the_base_model_decodes_nothing_of_the_chain(draft, base):
    trace = solve(QUESTION, draft=draft, base=base, config=CONFIG)
    decoded = [call for call in trace.calls if call.side == "base" and call.purpose != "answer"]
    assert {call.purpose for call in decoded} == {"read"}
    assert sum(call.completion_tokens for call in decoded) == 0
    assert all(call.cached_tokens > 0.5 * call.prompt_tokens for call in decoded[1:])


def test_sampled_corrections_come_from_the_base_models_first_choices(draft, base):
    config = replace(CONFIG, temperature=0.8, top_p=0.9, repair=Correct(delta=0.5, window=8))
    trace = solve(QUESTION, draft=draft, base=base, config=config)
    assert trace.corrections > 0
    assert trace.reasoning
