"""Files of traces, and the errors for other files."""

import json

import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.trace_files import read_traces
from tests.support.traces import make_alone, make_corrected, make_trace


def test_a_file_has_one_trace_or_one_per_line(tmp_path):
    corrected, alone = make_corrected(answer="\u2028 and \x85 are no line ends here"), make_alone()
    file = tmp_path / "traces.jsonl"
    file.write_text(f"{corrected.to_json()}\n\n{alone.to_json()}\n", encoding="utf-8")
    assert read_traces(file) == [corrected, alone]
    file.write_text(json.dumps(json.loads(corrected.to_json()), indent=2), encoding="utf-8")
    assert read_traces(file) == [corrected]


def changed(**fields):
    return json.dumps({**json.loads(make_trace().to_json()), **fields})


def with_step(**fields):
    first, *others = json.loads(make_corrected().to_json())["steps"]
    return changed(steps=[{**first, **fields}, *others])


def correction(**fields):
    return {"at": 0, "drafted": "a", "text": "b", "regret": 4.0, "kept": 0, **fields}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "has no trace"),
        ("\n \n", "has no trace"),
        ("nonsense", "line 1: this is not a trace"),
        ("[1,\n2]", "line 1: this is not a trace"),
        (make_trace().to_json() + "\n{}\n", "line 2: this is not a trace"),
        (changed(version=2), "line 1: this package reads version 3, got version 2"),
        (changed(config={}), "line 1: this is not a trace"),
        (with_step(corrections=[correction(at=-1)]), "line 1: this is not a trace"),
        (with_step(corrections=[correction(at=99)]), "line 1: this is not a trace"),
        (b"\xff\xfe", "not a trace"),
    ],
)
def test_a_line_that_is_not_a_trace_is_refused_by_number(tmp_path, content, says):
    file = tmp_path / "t.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=says):
        read_traces(file)
