"""The chain of thought: when it ends, and how pieces become steps."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specreason_sgl.reasoning.chain import Chain
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.trace import Correction, ReadToken, Step, joined
from specreason_sgl.reasoning.writing import how_ended

CONFIG = SpecReasonConfig(token_budget=100)
CALLS = ("first call", "second call")  # a chain only keeps them


def step(text="something", end="delimiter", tokens=10, author="draft", **fields):
    return Step(text, author, end, tokens, **fields)


def why_stop(*steps):
    return Chain(CONFIG, steps).why_stop()


# When it ends.


def test_it_continues():
    assert why_stop() is None
    assert why_stop(step("a"), step("b")) is None


@pytest.mark.parametrize("end", ["eos", "think"])
def test_the_end_of_the_turn_or_of_the_thinking_ends_it(end):
    assert why_stop(step(end=end)) == "end"


@pytest.mark.parametrize(
    "text",
    [
        "so \\boxed{18}",
        "\\boxed {x+1}",
        "\\boxed{ 42 }",
        "\\boxed{{A}}",
        "\\boxed{\\frac{1}{2}}",
        "Answer: 12",
        "**Final answer:** 12",
        "The answer: yes",
    ],
)
def test_an_answer_ends_it(text):
    assert why_stop(step(text)) == "answer"


@pytest.mark.parametrize(
    "text",
    [
        "Put it into \\boxed{} then",
        "an empty \\boxed{ } is no answer",
        "nor is \\boxed{{}}",
        "the answer is not yet here",
        "Answer:",
    ],
)
def test_talk_of_an_answer_does_not_end_it(text):
    assert why_stop(step(text)) is None


def test_an_answer_in_an_unfinished_step_does_not_end_it():
    assert why_stop(step("so \\boxed{18}", end=None)) is None


def test_a_step_like_the_one_before_ends_it():
    assert why_stop(step("a"), step(" a\n")) == "repetition"
    assert why_stop(step("a"), step("b"), step("a")) is None


def test_empty_steps_are_no_repetition():
    assert why_stop(step(""), step("")) is None
    assert why_stop(step(" "), step("\n")) is None


def test_the_budget_ends_it():
    assert why_stop(step("a", tokens=60), step("b", tokens=40)) == "budget"
    assert why_stop(step("a", tokens=60), step("b", end=None, tokens=40)) == "budget"
    assert Chain(CONFIG, [step(tokens=60)]).tokens_left == 40


def test_a_piece_has_what_is_left_of_its_step_and_of_the_budget():
    config = replace(CONFIG, step_tokens=20)
    assert Chain(config, [step(tokens=60)]).step_tokens_left == 20
    assert Chain(config, [step(end=None, tokens=8)]).step_tokens_left == 12
    assert Chain(config, [step(tokens=95)]).step_tokens_left == 5
    assert Chain(config, [step(end=None, tokens=25)]).step_tokens_left == 1


@pytest.mark.parametrize(
    ("reason", "thinking", "end"),
    [
        ({"type": "stop", "matched": "\n\n"}, True, "delimiter"),
        ({"type": "stop", "matched": "</think>"}, True, "think"),
        ({"type": "stop", "matched": "</think>"}, False, "delimiter"),
        ({"type": "stop", "matched": 151645}, True, "eos"),
        ({"type": "length", "length": 3}, True, "length"),
        ({}, True, "eos"),
        (None, False, "eos"),
    ],
)
def test_how_a_step_ended_is_read_from_the_finish_reason(reason, thinking, end):
    assert how_ended(reason, thinking) == end


# How pieces become steps.


def grown(*pieces, config=CONFIG):
    """The chain of these pieces, and the text of a state that they were appended to."""
    chain, state = Chain(config), ""
    for piece in pieces:
        state += chain.append(piece)
    return chain, state


def texts(chain):
    return [step.text for step in chain.steps], chain.open_step and chain.open_step.text


def test_steps_are_joined_by_the_delimiter():
    chain, state = grown(step("a"), step("b"), step("c", "eos"))
    assert (texts(chain), state) == ((["a", "b", "c"], None), "a\n\nb\n\nc")
    assert chain.text == state


def test_pieces_are_one_step():
    chain, state = grown(step("a", None), step("b", None), step("c"), step("d", None))
    assert (texts(chain), state) == ((["abc"], "d"), "abc\n\nd")
    assert chain.steps[0].end == "delimiter"
    assert chain.steps[0].tokens == 30


def test_a_step_cut_in_the_middle_of_a_word_continues_there():
    chain, state = grown(step("a wo", "length"), step("rd", "length"), step("."), step("b"))
    assert (texts(chain)[0], state) == (["a wo", "rd", ".", "b"], "a word.\n\nb")
    assert chain.text == joined(chain.steps, "\n\n") == state


@pytest.mark.parametrize(
    ("pieces", "steps", "rest"),
    [
        ([("a\n", None), ("\nb", "delimiter")], ["a", "b"], None),
        ([("a\n", None), ("\nb", None)], ["a"], "b"),
        ([("a\n", None), ("\n", None), ("b", "delimiter")], ["a", "b"], None),
        ([("a\n", None), ("\n\n", None), ("b", "delimiter")], ["a", "\nb"], None),
        ([("a\n", None), ("\n", "delimiter"), ("b", "delimiter")], ["a", "", "b"], None),
        ([("a\n", None), ("", "delimiter"), ("b", "delimiter")], ["a\n", "b"], None),
        ([("a", None), ("\n\nb\n\nc", None)], ["a", "b"], "c"),
    ],
)
def test_a_delimiter_that_two_pieces_make_divides_steps(pieces, steps, rest):
    chain, state = grown(*(step(text, end) for text, end in pieces))
    assert texts(chain) == (steps, rest)
    assert state == chain.text
    assert {step.end for step in chain.steps} == {"delimiter"}


def test_only_the_missing_part_of_a_delimiter_is_appended():
    """The base model's "\\n\\n" made the step's end: what follows needs no delimiter before it."""
    chain, _ = grown(step("a\n", None), step("\n", None))
    assert chain.lead == ""
    assert grown(step("a\n", None), step("\n", None), step("b"))[1] == "a\n\nb"
    assert Chain(CONFIG, [step("a")]).lead == "\n\n"


def test_positions_and_counts_of_a_piece_stay_true_in_its_step():
    first = step(
        "ab ", None, 3, "both", draft_tokens=2, calls=CALLS[:1],
        undrafted="failure", undrafted_detail="status 500",
        corrections=(Correction(2, "x", " ", 4.0, 2),),
        reading=(ReadToken(0, "a", -1.0, "a", 0.0),),
    )  # fmt: skip
    second = step(
        "cd", "delimiter", 5, "draft", draft_tokens=4, calls=CALLS[1:],
        corrections=(Correction(1, "y", "d", 5.0, 1),),
        reading=(ReadToken(0, "c", -1.0, "c", 0.0),),
    )  # fmt: skip
    merged = grown(first, second)[0].steps[0]
    assert (merged.text, merged.author, merged.tokens, merged.draft_tokens) == ("ab cd", "both", 8, 6)
    assert [merged.text[token.at : token.at + 1] for token in merged.reading] == ["a", "c"]
    assert [merged.text[correction.at :][: len(correction.text)] for correction in merged.corrections] == [
        " ",
        "d",
    ]
    assert [correction.kept for correction in merged.corrections] == [2, 1]
    assert (merged.calls, merged.undrafted, merged.undrafted_detail) == (CALLS, "failure", "status 500")


def test_what_was_kept_before_a_correction_counts_from_the_last_one():
    kept = step("a ", None, 4, draft_tokens=4)
    corrected = step("b", None, 3, "both", draft_tokens=2, corrections=(Correction(0, "x", "b", 4.0, 2),))
    assert [
        correction.kept for correction in grown(kept, corrected, kept, corrected)[0].open_step.corrections
    ] == [6, 6]


def test_the_score_of_a_step_is_the_last_of_its_pieces():
    judged, again = step("a", None, score=3.0, probabilities={"3": 1.0}), step("b", None, score=5.0)
    assert grown(judged, again, step("c"))[0].steps[0].score == 5.0
    (whole,) = grown(judged, step("b"))[0].steps
    assert (whole.score, whole.probabilities) == (3.0, {"3": 1.0})


def test_a_rule_compares_with_one_score_of_each_finished_step():
    judged = step("a", None, score=3.0), step("b", score=5.0), step("c"), step("d", score=4.0)
    chain, _ = grown(*judged, step("e", None, score=1.0))
    assert chain.scores == [5.0, 4.0]
    assert Chain(CONFIG, chain.all_steps).scores == chain.scores


def test_each_step_is_reported_once_when_it_is_finished():
    told = []
    chain = Chain(CONFIG, on_step=told.append)
    for piece, count in ((step("a", None), 0), (step("b\n", None), 0), (step("\nc"), 2), (step("d"), 3)):
        chain.append(piece)
        assert len(told) == count
    assert told == chain.steps


def test_a_copy_is_independent_and_reports_nothing():
    told = []
    chain = Chain(CONFIG, [step("a"), step("b\n", None)], told.append)
    copy = chain.copy()
    assert copy.append(step("\nc")) == "\nc"
    assert (texts(chain), texts(copy)) == ((["a"], "b\n"), (["a", "b", "c"], None))
    assert told == []


def test_a_chain_continues_from_an_unfinished_step():
    chain = Chain(CONFIG, [step("a"), step("b", None)])
    assert (chain.lead, chain.append(step("c")), chain.append(step("d"))) == ("", "c", "\n\nd")
    assert chain.text == "a\n\nbc\n\nd"


PIECES = st.lists(
    st.builds(
        lambda text, end: step(text, end),
        st.text("ab\n", max_size=5).filter(lambda text: "\n\n" not in text),
        st.sampled_from([None, None, "delimiter", "length"]),
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(PIECES, st.sampled_from(["\n\n", "\n", "ab", "aba"]))
def test_the_states_text_is_always_the_chains(pieces, delimiter):
    config = replace(CONFIG, delimiter=delimiter)
    chain, state = grown(*pieces, config=config)
    assert joined(chain.all_steps, delimiter) == chain.text
    assert not any(delimiter in step.text for step in chain.all_steps)
    goes_on = chain.open_step or not chain.steps or chain.steps[-1].end == "length"
    assert state + chain.lead == chain.text + ("" if goes_on else delimiter)
    assert state + chain.append(step("x", "eos")) == chain.text
