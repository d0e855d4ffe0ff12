"""Settings of an evaluation: modes and swept knobs."""

import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.settings import MODES, expand
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.repair import Correct, Rewrite
from specreason_sgl.reasoning.verifiers import Likelihood, PaperScore, RewardModel, UtilityScore
from tests.support.calibrations import CALIBRATION

SWEEP = {"threshold": [3.0, 5.0], "first_base_steps": [0, 10], "token_budget": [100]}
UNSAID = {name: [None] for name in ("threshold", "keep", "delta", "numeric_delta", "window", "confidence")}


def named(*modes, knobs=SWEEP, **options):
    return {setting.name: setting.config for setting in expand(modes, knobs, **options)}


def named_settings(*modes, knobs):
    return expand(modes, knobs)


def test_every_combination_of_the_swept_knobs_is_a_setting():
    assert set(named("sequential")) == {
        f"sequential threshold={t} first-base-steps={n}" for t in (3, 5) for n in (0, 10)
    }
    assert {(c.threshold, c.first_base_steps) for c in named("sequential").values()} == {
        (t, n) for t in (3, 5) for n in (0, 10)
    }


def test_a_model_alone_is_one_setting_whatever_is_swept_of_the_others():
    assert list(named("base", "draft")) == ["base", "draft"]
    assert named("base")["base"].token_budget == 100
    assert len(named("base", knobs={**SWEEP, "token_budget": [100, 200]})) == 2


def test_a_sweep_of_the_correction_is_named_after_what_is_swept():
    knobs = {"delta": [2.0, 0.5], "numeric_delta": [1.0], "window": [16, "step"], "threshold": [5.0]}
    assert {name: config.repair for name, config in named("correct", knobs=knobs).items()} == {
        "correct delta=2 window=16": Correct(delta=2, numeric_delta=1, window=16),
        "correct delta=2 window=step": Correct(delta=2, numeric_delta=1, window=None),
        "correct delta=0.5 window=16": Correct(delta=0.5, numeric_delta=1, window=16),
        "correct delta=0.5 window=step": Correct(delta=0.5, numeric_delta=1, window=None),
    }


def test_unsaid_the_correction_is_the_packages_default():
    config = named("correct", knobs=UNSAID, pair="mini")["correct"].as_dict()
    assert config == {**SpecReasonConfig().as_dict(), "draft_timeout": config["draft_timeout"]}


def test_the_papers_method_is_its_own_question_and_one_thing_at_a_time():
    knobs = {"lookahead": [2], "confidence": [-1.0], "delta": [1.0], "threshold": [5.0]}
    config = named("paper", knobs=knobs)["paper"]
    assert (config.repair, config.verifier, config.threshold) == (Rewrite(), PaperScore(), 5.0)
    assert (config.lookahead, config.patience, config.confidence) == (0, 0, None)
    assert named("paper", knobs=UNSAID, pair="mini")["paper"].threshold == 7


def test_the_short_question_is_measured_by_naming_its_verifier():
    config = named("sequential", knobs={**UNSAID, "verifier": ["score"]}, pair="mini")["sequential"]
    assert (config.repair, config.verifier, config.threshold) == (Rewrite(), UtilityScore(), 7)


def test_a_threshold_in_other_units_is_not_the_papers():
    settings = named("paper", "sequential", knobs={"threshold": [-3.0, -5.0], "verifier": ["likelihood-min"]})
    assert list(settings) == ["paper", "sequential threshold=-3", "sequential threshold=-5"]
    assert settings["paper"].threshold == 7
    assert settings["sequential threshold=-3"].verifier == Likelihood(reduce="min")


def test_sequential_and_overlapped_differ_in_nothing_else():
    knobs = {"threshold": [5.0], "confidence": [-1.0], "lookahead": [2]}
    a, b = named("sequential", "pipelined", knobs=knobs).values()
    assert (a.lookahead, b.lookahead, a.confidence) == (0, 2, -1)
    assert {**a.as_dict(), "lookahead": 2} == b.as_dict()


def test_a_reward_model_judges_one_thing_at_a_time():
    reward = object()
    config = named("reward", knobs={"reward_threshold": [0.5], "lookahead": [2]}, reward=reward)["reward"]
    assert (config.repair, config.verifier) == (Rewrite(), RewardModel(reward))
    assert (config.threshold, config.lookahead, config.patience) == (0.5, 0, 0)


def test_the_pairs_own_calibration_judges_where_nothing_else_is_said():
    settings = named("sequential", "pipelined", knobs=UNSAID, pair="mini")
    assert settings["sequential"].verifier == settings["pipelined"].verifier == Likelihood(reduce="min")
    assert settings["sequential"].repair == Rewrite()


def test_a_calibration_is_the_setting_of_its_own_repair_only(tmp_path):
    CALIBRATION.save(tmp_path / "c.json")
    knobs = {"calibration": [str(tmp_path / "c.json")], "threshold": [5.0]}
    settings = named("base", "correct", "pipelined", "paper", knobs=knobs)
    assert settings["correct"].repair == Correct(delta=2.0, window=None)
    assert [settings[mode].threshold for mode in ("pipelined", "paper")] == [5, 5]
    knobs["calibration"] = ["mini-steps"]
    settings = named("correct", "paper", knobs=knobs)
    assert (settings["correct"].verifier, settings["paper"].threshold) == (None, 7)


def test_mix_sends_a_share_of_the_problems_to_the_draft_model_and_a_larger_share_the_same_ones():
    small, large = named_settings("mix", knobs={"share": [0.2, 0.7]})
    ids = [f"p{i}" for i in range(1000)]
    drafted = [{id for id in ids if each.model_alone(id) == "draft"} for each in (small, large)]
    assert drafted[0] < drafted[1]
    assert [len(each) / 1000 for each in drafted] == pytest.approx([0.2, 0.7], abs=0.05)
    assert small.as_dict()["share"] == 0.2


def test_a_value_out_of_range_and_a_missing_reward_model_are_refused():
    with pytest.raises(ConfigError, match="threshold must be a number from 0 to 9"):
        named("paper", knobs={"threshold": [11.0]})
    with pytest.raises(ConfigError, match="delta must be a number of at least 0"):
        named("correct", knobs={"delta": [3.0, -1.0]})
    with pytest.raises(ConfigError, match="--reward-url"):
        named("reward")
    assert MODES == (
        "base",
        "draft",
        "base-whole",
        "mix",
        "correct",
        "sequential",
        "pipelined",
        "paper",
        "reward",
    )
