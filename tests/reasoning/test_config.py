import dataclasses

import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import FixedShare, Threshold
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.plain import config_of
from specreason_sgl.reasoning.repair import Correct, Rewrite
from specreason_sgl.reasoning.verifiers import VERIFIERS, Likelihood, UtilityScore


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repair", "mend"),
        ("repair", Correct),
        ("verifier", "guess"),
        ("verifier", 3),
        ("confidence", 0.1),
        ("confidence", "-1"),
        ("lookahead", -1),
        ("patience", -1),
        ("draft_timeout", 0),
        ("at_budget", "go on"),
        ("first_base_steps", -1),
        ("first_base_steps", 1.5),
        ("token_budget", -1),
        ("step_tokens", 0),
        ("answer_tokens", "many"),
        ("temperature", -0.1),
        ("temperature", float("inf")),
        ("top_p", 0),
        ("top_p", 1.1),
        ("delimiter", ""),
        ("instruction", None),
        ("template", 3),
        ("answer_stop", ["a"]),
        ("answer_stop", ("",)),
        ("answer_tokens", True),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"^{name} must be .*, got ") as raised:
        SpecReasonConfig(**{name: value})
    assert raised.value.knobs == (name,)
    said = raised.value.reworded(lambda knob: f"--{knob}")
    assert said == f"--{raised.value}"


def test_an_unknown_setting_is_refused():
    with pytest.raises(ConfigError, match="SpecReasonConfig has no setting tokens"):
        SpecReasonConfig(tokens=3)


def test_repairs_and_verifiers_can_be_given_by_name():
    config = SpecReasonConfig(repair="rewrite", verifier="yes-no", threshold=0.5)
    assert (config.repair, config.verifier) == (Rewrite(), VERIFIERS["yes-no"])
    assert Correct(window="step") == Correct(window=None)


@pytest.mark.parametrize("threshold", [11, -1, float("nan"), "7", True])
def test_a_threshold_must_be_in_its_verifiers_units(threshold):
    with pytest.raises(ConfigError, match=r"threshold must be a number( from 0 to 9)?, got"):
        SpecReasonConfig(repair=Rewrite(), threshold=threshold)


def test_a_threshold_must_have_something_to_compare_with():
    with pytest.raises(ConfigError, match="threshold must come with repair=Rewrite"):
        SpecReasonConfig(threshold=7)
    with pytest.raises(ConfigError, match="threshold must be given with the verifier"):
        SpecReasonConfig(verifier=Likelihood())
    assert SpecReasonConfig(verifier=Likelihood(), threshold=FixedShare(0.5)).rule == FixedShare(0.5)


@pytest.mark.parametrize(
    ("repair", "name", "value"),
    [
        *((Correct, "delta", value) for value in (-0.1, float("nan"), "3")),
        (Correct, "numeric_delta", -1),
        *((Correct, "window", value) for value in (0, 1.5)),
        *((Rewrite, "end_delta", value) for value in (-0.1, float("nan"), "3", None, True)),
    ],
)
def test_a_number_of_a_repair_out_of_range_is_refused_by_name(repair, name, value):
    with pytest.raises(ConfigError, match=f"^{name} must be a .*, got"):
        repair(**{name: value})


def test_by_default_tokens_are_corrected_and_nothing_judges_steps():
    config = SpecReasonConfig()
    assert (config.repair, config.judge, config.window) == (Correct(delta=1.0, window="auto"), None, "auto")
    assert (config.token_budget, config.step_tokens, config.lookahead) == (8192, 512, 1)
    assert (config.temperature, config.top_p, config.delimiter) == (0.6, 0.95, "\n\n")


def test_rewriting_is_judged_by_the_papers_digit_and_threshold():
    config = SpecReasonConfig(repair=Rewrite())
    assert (config.judge, config.rule.at, config.window) == (UtilityScore(), 7, None)


def test_a_verifier_can_have_a_default_threshold(monkeypatch):
    class Unsure(Likelihood):
        default_threshold = -0.5

    monkeypatch.setitem(VERIFIERS, "unsure", Unsure())
    for config in (SpecReasonConfig(verifier=Unsure()), config_of({"verifier": "unsure"})):
        assert (config.judge, config.rule) == (Unsure(), Threshold(-0.5))


def test_steps_that_a_verifier_judges_first_are_not_read_by_windows():
    config = SpecReasonConfig(verifier=UtilityScore(), repair=Correct(window=8))
    assert (config.judge, config.window) == (UtilityScore(), None)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SpecReasonConfig().threshold = 3


@pytest.mark.parametrize("question", ["", "  \n", None])
def test_an_empty_question_is_refused(question):
    with pytest.raises(ConfigError, match="question is empty"):
        SpecReasonConfig().prompt(question)


def test_the_instruction_follows_the_question():
    assert SpecReasonConfig(instruction="Think.").prompt("Why?") == "Why?\n\nThink."
    assert SpecReasonConfig(instruction="").prompt("Why?") == "Why?"
