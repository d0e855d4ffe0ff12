import dataclasses

import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.config import SpecReasonConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threshold", 11),
        ("threshold", -1),
        ("threshold", float("nan")),
        ("threshold", "7"),
        ("threshold", True),
        ("verifier", "score"),
        ("lookahead", -1),
        ("candidates", 0),
        ("salvage", 1),
        ("at_budget", "go on"),
        ("eager_rewrite", 1),
        ("first_base_steps", -1),
        ("first_base_steps", 1.5),
        ("token_budget", 0),
        ("step_tokens", 0),
        ("answer_tokens", "many"),
        ("temperature", -0.1),
        ("temperature", float("inf")),
        ("top_p", 0),
        ("top_p", 1.1),
        ("delimiter", ""),
        ("instruction", None),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        SpecReasonConfig(**{name: value})


def test_defaults_are_the_papers():
    config = SpecReasonConfig()
    assert (config.threshold, config.token_budget, config.step_tokens) == (7.0, 8192, 512)
    assert (config.temperature, config.top_p, config.delimiter) == (0.6, 0.95, "\n\n")


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
