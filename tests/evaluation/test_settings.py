import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.settings import MODES, expand
from specreason_sgl.reasoning.verifiers import Likelihood, RewardModel, SameMeaning, UtilityScore

SWEEP = {"threshold": [3.0, 5.0], "first_base_steps": [0, 10], "token_budget": [100]}


def named(*modes, knobs=SWEEP, **options):
    return {one.name: one.config for one in expand(modes, knobs, **options)}


def test_every_combination_of_the_swept_knobs_is_a_setting():
    assert set(named("specreason")) == {
        f"specreason threshold={t} first-base-steps={n}" for t in (3, 5) for n in (0, 10)
    }
    assert {(c.threshold, c.first_base_steps) for c in named("specreason").values()} == {
        (t, n) for t in (3, 5) for n in (0, 10)
    }


def test_a_model_alone_is_one_setting_whatever_is_swept_of_the_others():
    assert list(named("base", "draft")) == ["base", "draft"]
    assert named("base")["base"].token_budget == 100
    assert len(named("base", knobs={**SWEEP, "token_budget": [100, 200]})) == 2


def test_the_papers_method_is_the_digit_and_one_thing_at_a_time():
    everything = {"lookahead": [2], "eager_rewrite": [True], "candidates": [3], "threshold": [5.0]}
    config = named("paper", knobs=everything)["paper"]
    assert (config.verifier, config.threshold, config.lookahead) == (UtilityScore(), 5.0, 0)
    assert (config.candidates, config.eager_rewrite, config.salvage) == (1, False, None)
    assert config.patience == 0


def test_a_threshold_in_other_units_is_not_the_papers():
    found = named("paper", "specreason", knobs={"threshold": [-3.0, -5.0]}, verifier="likelihood-min")
    assert list(found) == ["paper", "specreason threshold=-3", "specreason threshold=-5"]
    assert found["paper"].threshold == 7
    assert found["specreason threshold=-3"].verifier == Likelihood(reduce="min")


def test_sequential_and_overlapped_differ_in_nothing_else():
    a, b = named("specreason", "pipelined", knobs={"threshold": [5.0], "lookahead": [2]}).values()
    assert (a.lookahead, b.lookahead) == (0, 2)
    assert {**a.as_dict(), "lookahead": 2} == b.as_dict()


def test_the_peers_have_their_own_judges():
    reward = object()
    found = named("lookahead", "reward", knobs={"reward_threshold": [0.5]}, reward=reward)
    assert found["lookahead"].verifier == SameMeaning()
    assert found["lookahead"].lookahead == 1
    assert found["reward"].verifier == RewardModel(reward)
    assert (found["reward"].threshold, found["reward"].lookahead) == (0.5, 0)


def test_a_setting_is_named_after_what_it_does():
    assert list(named("lookahead", knobs={"lookahead": [0, 1, 2]})) == [
        "lookahead lookahead=1", "lookahead lookahead=2",
    ]  # fmt: skip


def test_the_pairs_own_calibration_judges_where_nothing_else_is_said():
    found = named("specreason", "paper", knobs={"threshold": [None], "keep": [None]}, pair="mini")
    assert found["specreason"].verifier == Likelihood(reduce="min")
    assert found["paper"].verifier == UtilityScore()
    assert found["paper"].threshold == 7


def test_a_value_out_of_range_and_a_missing_reward_model_are_refused():
    with pytest.raises(ConfigError, match="threshold is a number from 0 to 9"):
        named("paper", knobs={"threshold": [11.0]})
    with pytest.raises(ConfigError, match="--reward-url"):
        named("reward")
    assert set(MODES) >= {"base", "draft", "specreason", "pipelined", "paper", "lookahead", "reward"}
