"""What all views of a trace share: spans of a step, and totals."""

import pytest

from specreason_sgl.display.parts import END, spans, totals
from specreason_sgl.reasoning.trace import Correction, ReadToken, Step
from tests.support.traces import CORRECTED_STEPS, make_alone, make_corrected, make_trace


def test_what_is_not_struck_out_is_the_text_of_the_step():
    for step in (*make_trace().steps, *CORRECTED_STEPS):
        texts = [span.text for span in spans(step) if span.kind != "struck"]
        assert "".join(texts).removesuffix(END) == step.text


@pytest.mark.parametrize(
    ("text", "corrections", "shown"),
    [
        ("a b", [(1, "\n\n", " b.\n\n")], ["a", END * 2, " b"]),  # the delimiter is no part of the step
        ("ab", [(1, "x", "b"), (2, "y", "c"), (2, "z", "")], ["a", "x", "b", "y", END, "z", END]),
        ("ab", [(0, "x", "ab"), (1, "y", "b")], ["x", "ab", "y", END]),
    ],
)
def test_no_correction_shows_what_the_step_has_not(text, corrections, shown):
    fixed = tuple(Correction(at, drafted, put, 4.0, 1) for at, drafted, put in corrections)
    step = Step(text, "both", "delimiter", 3, corrections=fixed)
    assert [span.text for span in spans(step)] == shown


def test_a_token_that_begins_in_the_text_before_is_shaded_from_the_step_s_beginning():
    step = Step("So", "draft", "delimiter", 3, reading=(ReadToken(-1, "\nS", -1, "S", 0.5),))
    assert [(span.text, span.shade) for span in spans(step)] == [("S", 1), ("o", 0)]


@pytest.mark.parametrize(
    ("regret", "shade"), [(0.0, 0), (0.2, 1), (1.0, 1), (1.5, 2), (3.0, 3), (4.5, 4), (float("inf"), 4)]
)
def test_a_shade_is_of_the_regret(regret, shade):
    step = Step("a b", "draft", "delimiter", 2, reading=(ReadToken(1, " b", -5.0, " c", regret),))
    before, token = spans(step)
    assert (before.text, before.shade) == ("a", 0)
    assert (token.text, token.shade) == (" b", shade)
    assert bool(token.detail) == bool(shade)


def test_a_shade_says_the_regret_and_the_first_choice():
    (span,) = spans(Step("a", "draft", "delimiter", 2, reading=(ReadToken(0, "a", -5.0, '"b\n', 4.5),)))
    assert span.detail == "regret 4.50 nats; the base model's first choice: " + r'"\"b\n"'


def test_a_character_of_several_tokens_has_the_highest_regret_of_them():
    reading = (
        ReadToken(0, "", -1, "", 5.0),
        ReadToken(0, "🚆", -1, "🚆", 0.0),
        ReadToken(2, "\n", -9, "", 9.0),
    )
    step = Step("🚆.", "draft", "delimiter", 3, reading=reading)
    assert [(span.text, span.shade) for span in spans(step)] == [("🚆", 4), (".", 0)]


@pytest.mark.parametrize(
    ("trace", "line"),
    [
        (
            make_trace(),
            "5 steps: 2 kept, 2 rewritten; 112 tokens in 9.8 s (11.5 tokens/s), 73 more thrown away",
        ),
        (
            make_corrected(),
            "5 steps: 1 kept, 3 corrected (4 tokens); 82 tokens in 6.9 s (11.9 tokens/s), 13 more",
        ),
        (
            make_trace(steps=(CORRECTED_STEPS[2], *make_trace().steps[2:])),
            "4 steps: 1 kept, 1 corrected (1 token), 2 rewritten; ",
        ),
        (make_trace(steps=CORRECTED_STEPS[:1]), "1 step: 1 kept; "),
        (make_alone(), "base alone: 146 tokens in 14.7 s (10.0 tokens/s)"),
    ],
)
def test_totals_say_what_there_is(trace, line):
    assert totals(trace).startswith(line)
