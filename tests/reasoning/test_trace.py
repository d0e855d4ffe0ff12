import json
import subprocess
import sys
from dataclasses import replace

import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.trace import Call, Step, Trace

CALL = Call("draft", "draft", 10, 8, 5, 0.5, 0.25)


def make_trace(texts=("a", "b\nc", "é 🙂")):
    return Trace(
        question="q",
        mode="specreason",
        draft_model="d",
        base_model="b",
        config=SpecReasonConfig().as_dict(),
        steps=tuple(
            Step(
                text,
                "base" if i else "draft",
                "delimiter",
                5,
                7.0,
                {"7": 1.0},
                "x" if i else None,
                0,
                (CALL,),
            )
            for i, text in enumerate(texts)
        ),
        stop="answer",
        answer="18",
        answer_call=CALL,
        seconds=2.5,
    )


def test_a_trace_written_and_read_is_the_same():
    trace = make_trace()
    assert Trace.from_json(trace.to_json()) == trace
    assert "\n" not in trace.to_json()


def test_steps_joined_are_the_chain_of_thought():
    assert make_trace().reasoning == "a\n\nb\nc\n\né 🙂"


def test_counts():
    trace = make_trace()
    assert (trace.kept, trace.rewritten, trace.tokens, len(trace.calls)) == (1, 2, 20, 4)


@pytest.mark.parametrize(
    ("author", "tokens", "thrown"), [("draft", 9, 8 + 8), ("base", 7, 9 + 8 + 8), ("both", 11, 5 + 8 + 8)]
)
def test_what_is_thrown_away_is_what_the_chain_of_thought_does_not_have(author, tokens, thrown):
    """Of three versions, of 9, 8 and 8 tokens, the first is kept, rejected, or kept for 4 tokens."""
    calls = [replace(CALL, completion_tokens=n) for n in (9, 8, 8)]
    calls += [Call("base", "score", 20, 10, 1, 1.0, 0.1)]
    calls += [Call("base", "rewrite", 20, 10, 7, 1.1, 0.1)] if author != "draft" else []
    step = Step("a", author, "delimiter", tokens, 5.0, calls=tuple(calls))
    assert replace(make_trace(), steps=(step,)).wasted_tokens == thrown


def changed(**fields):
    return json.dumps({**json.loads(make_trace().to_json()), **fields})


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", "nonsense", changed(steps=[{"x": 1}]), changed(steps=None)]
)
def test_what_is_not_a_trace_is_refused(text):
    with pytest.raises(ConfigError, match="not a trace"):
        Trace.from_json(text)


def test_a_trace_of_another_version_is_refused():
    with pytest.raises(ConfigError, match="version 99"):
        Trace.from_json(changed(version=99))


def test_reading_a_trace_imports_neither_sglang_nor_torch():
    code = (
        "import sys; from specreason_sgl import Trace, SpecReasonConfig; import specreason_sgl.cli; "
        "assert not {'sglang', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
