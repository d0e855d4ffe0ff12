"""`read_traces`: files of traces, as `solve --json` writes them, with one trace or one per line."""

import json
from pathlib import Path

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.trace import Trace


def read_traces(path: Path) -> list[Trace]:
    """Read the traces of a file.

    Raises:
        ConfigError: the file cannot be read, has no trace, or has a line that is not a trace; the message
            names the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the trace {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a trace of specreason-sgl (it is not text)") from None
    traces = []
    for number, line in enumerate(_records(text), 1):
        if not line.strip():
            continue
        try:
            traces.append(_check(Trace.from_json(line)))
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None
    if not traces:
        raise ConfigError(f"{path} has no trace")
    return traces


def _records(text: str) -> list[str]:
    """The whole text if it is one JSON value over several lines, else its lines."""
    lines = text.split("\n")  # not splitlines: JSON strings can contain other line ends of Unicode
    return [text] if len(lines) > 1 and _is_json(text) else lines


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _check(trace: Trace) -> Trace:
    """Check what views rely on, beyond the types that `from_json` checks."""
    if not isinstance(trace.config.get("delimiter"), str):
        raise ConfigError("this is not a trace of specreason-sgl: its config has no delimiter")
    for step in trace.steps:
        if not all(0 <= correction.at <= len(step.text) for correction in step.corrections):
            raise ConfigError("this is not a trace of specreason-sgl: a correction lies outside its step")
    return trace
