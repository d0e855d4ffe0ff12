import pytest
from specreason_sgl.reasoning.stopping import how_ended, tokens_left, why_stop

from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.trace import Step

CONFIG = SpecReasonConfig(token_budget=100)


def step(text="something", end="delimiter", tokens=10):
    return Step(text, "draft", end, tokens)


def test_it_goes_on():
    assert why_stop([], CONFIG) is None
    assert why_stop([step("a"), step("b")], CONFIG) is None


@pytest.mark.parametrize("end", ["eos", "think"])
def test_the_end_of_the_turn_or_of_the_thinking_ends_it(end):
    assert why_stop([step(end=end)], CONFIG) == "end"


@pytest.mark.parametrize(
    "text", ["so \\boxed{18}", "\\boxed {x+1}", "Answer: 12", "**Final answer:** 12", "The answer: yes"]
)
def test_an_answer_ends_it(text):
    assert why_stop([step(text)], CONFIG) == "answer"


@pytest.mark.parametrize("text", ["Put it into \\boxed{} then", "the answer is not yet here", "Answer:"])
def test_talk_of_an_answer_does_not_end_it(text):
    assert why_stop([step(text)], CONFIG) is None


def test_a_step_like_the_one_before_ends_it():
    assert why_stop([step("a"), step(" a\n")], CONFIG) == "repetition"
    assert why_stop([step("a"), step("b"), step("a")], CONFIG) is None
    assert why_stop([step(""), step("")], CONFIG) == "repetition"


def test_the_budget_ends_it():
    assert why_stop([step("a", tokens=60), step("b", tokens=40)], CONFIG) == "budget"
    assert tokens_left([step(tokens=60)], CONFIG) == 40


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        ({"type": "stop", "matched": "\n\n"}, "delimiter"),
        ({"type": "stop", "matched": "</think>"}, "think"),
        ({"type": "stop", "matched": 151645}, "eos"),
        ({"type": "length", "length": 3}, "length"),
        ({}, "eos"),
        (None, "eos"),
    ],
)
def test_how_a_step_ended_is_read_from_the_finish_reason(reason, end):
    assert how_ended(reason, "</think>") == end
