import json
import math
import subprocess
import sys

import pytest
from msgspec.structs import replace

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.trace import Call, Correction, ReadToken, Step, Trace, joined

CALL = Call("draft", "draft", 10, 8, 5, 0.5, 0.25)


def make_trace():
    return Trace(
        question="q",
        mode="specreason",
        draft_model="d",
        base_model="b",
        config=SpecReasonConfig().as_dict(),
        steps=(
            Step("a", "draft", "delimiter", 5, 5, 7.0, {"7": 1.0}, calls=(CALL,)),
            *(Step(text, "base", "delimiter", 5, 0, 7.0, {"7": 1.0}, "x", calls=(CALL,)) for text in "bc"),
        ),
        stop="answer",
        answer="18",
        answer_call=CALL,
        seconds=2.5,
    )


def test_counts():
    trace = make_trace()
    assert (trace.kept, trace.rewritten, trace.tokens, len(trace.calls)) == (1, 2, 20, 4)


def calls(**tokens):
    """Requests by purpose, and how many tokens each generated."""
    return tuple(
        Call("draft" if purpose == "draft" else "base", purpose, 20, 10, count, 1.0, 0.1)
        for purpose, counts in tokens.items()
        for count in counts
    )


CORRECTED = (Correction(1, "x", "y", 4.0, 1), Correction(3, "x", "y", 4.0, 1))


@pytest.mark.parametrize(
    ("step", "wasted", "thrown"),
    [
        (Step("a", "draft", "delimiter", 9, 9, calls=calls(draft=[9], score=[1])), (), 0),
        (Step("a", "draft", "delimiter", 9, 9, calls=calls(draft=[9], score=[1])), calls(draft=[8, 4]), 12),
        (Step("b", "base", "delimiter", 7, calls=calls(draft=[9], score=[1], rewrite=[7])), (), 9),
        (Step("b", "base", "delimiter", 7, calls=calls(rewrite=[7])), calls(rewrite=[3], score=[1]), 3),
        # 4 and 5 tokens of the second and third draft are kept; both were aborted.
        (
            Step(
                "c", "both", "delimiter", 20, 18, corrections=CORRECTED, calls=calls(draft=[9], read=[0, 0])
            ),
            calls(draft=[6, 8]),
            5,
        ),
        # After 4 kept tokens the base model wrote 2: its single token was a part of a character.
        (
            Step(
                "d",
                "both",
                "delimiter",
                6,
                4,
                corrections=CORRECTED[:1],
                calls=calls(draft=[9], read=[0], rewrite=[2]),
            ),
            (),
            5,
        ),
        # The draft model wrote the first 3 tokens, the base model the rest.
        (Step("e", "both", "delimiter", 8, 3, calls=calls(draft=[3], score=[1], rewrite=[5])), (), 0),
    ],
)
def test_wasted_tokens_are_those_not_in_the_chain_of_thought(step, wasted, thrown):
    """The base model's tokens in a correction were read, not generated."""
    assert replace(make_trace(), steps=(step,), wasted=wasted).wasted_tokens == thrown


def test_a_model_alone_wastes_nothing():
    steps = (Step("a", "base", "delimiter", 0), Step("b", "base", "eos", 9, calls=calls(reason=[9])))
    assert replace(make_trace(), mode="base", steps=steps).wasted_tokens == 0


def test_a_step_that_its_length_cut_is_joined_without_a_delimiter():
    cut = [
        Step("a wo", "draft", "length", 2),
        Step("rd", "base", "delimiter", 1),
        Step("b", "draft", None, 1),
    ]
    assert joined(cut, "\n\n") == replace(make_trace(), steps=tuple(cut)).reasoning == "a word\n\nb"
    assert joined(cut[:1], "\n\n") == "a wo"
    assert joined([], "\n\n") == ""


def test_only_a_run_of_a_pair_that_failed_is_resumable():
    trace = make_trace()
    assert replace(trace, stop="failed").resumable
    assert not trace.resumable
    assert not replace(trace, stop="failed", mode="base").resumable


def changed(**fields):
    return json.dumps({**json.loads(make_trace().to_json()), **fields})


def with_step(**fields):
    (step, *_) = json.loads(make_trace().to_json())["steps"]
    return changed(steps=[{**step, **fields}])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (with_step(author="nobody"), "Invalid enum value 'nobody' - at `$.steps[0].author`"),
        (with_step(tokens="5"), "Expected `int`, got `str` - at `$.steps[0].tokens`"),
        (with_step(calls=[{}]), "Object missing required field `side` - at `$.steps[0].calls[0]`"),
        (
            with_step(reading=[[1]]),
            "Expected `array` of at least length 5, got 1 - at `$.steps[0].reading[0]`",
        ),
        (with_step(head=0), "Object contains unknown field `head` - at `$.steps[0]`"),
        (changed(version="2"), "Expected `int`, got `str` - at `$.version`"),
        (changed(steps=None), "Expected `array`, got `null` - at `$.steps`"),
        (
            with_step(corrections=[{"at": 1}]),
            "Object missing required field `drafted` - at `$.steps[0].corrections[0]`",
        ),
        ("null", "Expected `object`, got `null`"),
        ("", "Input data was truncated"),
    ],
)
def test_the_error_says_what_is_wrong_and_where(text, says):
    with pytest.raises(ConfigError) as raised:
        Trace.from_json(text)
    assert str(raised.value) == f"this is not a trace of specreason-sgl: {says}"


@pytest.mark.parametrize("version", [1, 2, 99])
def test_a_trace_of_another_version_is_refused(version):
    for text in (changed(version=version), changed(version=version, steps=[{"x": 1}])):
        with pytest.raises(ConfigError, match=f"^this package reads version 3, got version {version}$"):
            Trace.from_json(text)


def test_infinities_are_null_in_the_file_and_infinities_again_when_read():
    step = Step(
        "y", "both", "delimiter", 3, 2,
        corrections=(Correction(0, "x", "y", math.inf, 0),),
        reading=(ReadToken(0, "y", -math.inf, "z", math.inf),),
    )  # fmt: skip
    trace = replace(make_trace(), steps=(step,))
    (plain,) = json.loads(trace.to_json(), parse_constant=pytest.fail)["steps"]
    assert plain["reading"] == [[0, "y", None, "z", None]]
    assert plain["corrections"][0]["regret"] is None
    assert Trace.from_json(trace.to_json()) == trace


@pytest.mark.parametrize("score", [math.inf, -math.inf])
def test_an_infinite_score_stays_beyond_every_threshold(score):
    """Null means that nothing was scored."""
    trace = replace(make_trace(), steps=(Step("y", "draft", "delimiter", 3, 2, score),))
    (read,) = Trace.from_json(trace.to_json()).steps
    assert read == trace.steps[0]
    assert math.isfinite(read.score)
    assert (read.score >= 1e300) is (score > 0)


def test_a_request_can_be_in_a_set():
    assert len({CALL, replace(CALL), replace(CALL, start=1.0)}) == 2


def test_reading_a_trace_imports_neither_sglang_nor_torch():
    code = (
        "import sys; from specreason_sgl import SpecReasonConfig, Trace; import specreason_sgl.cli; "
        "assert not {'sglang', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
