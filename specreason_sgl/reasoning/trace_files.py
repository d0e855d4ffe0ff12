"""Files of traces, as `solve --json` writes them: one trace, or JSON Lines with several."""

import json
from pathlib import Path
from types import UnionType
from typing import get_args

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.trace import Author, Side, Step, Stop, Trace


def read_traces(path: Path) -> list[Trace]:
    """Read the traces of a file.

    Raises:
        ConfigError: the file cannot be read, has no trace, or has a line that is not a trace (the message
            gives its number).
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
            traces.append(_checked(Trace.from_json(line)))
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None
    if not traces:
        raise ConfigError(f"{path} has no trace")
    return traces


def _records(text: str) -> list[str]:
    """The whole text where it is one JSON value over several lines, else its lines."""
    lines = text.split("\n")  # not splitlines: JSON strings may contain Unicode's other line ends
    return [text] if len(lines) > 1 and _is_json(text) else lines


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _checked(trace: Trace) -> Trace:
    """The trace, if its values have the types that views rely on; `from_json` checks the fields only."""
    calls = (*trace.calls, *trace.wasted)
    valid = (
        isinstance(trace.config, dict)
        and _are(str, trace.config.get("delimiter"), trace.question, trace.answer)
        and trace.mode in ("specreason", "base", "draft")
        and trace.stop in get_args(Stop)
        and all(map(_is_valid_step, trace.steps))
        and _are(int | float, trace.seconds)
        and all(_are(int | float, call.start, call.seconds, call.completion_tokens) for call in calls)
        and all(call.side in get_args(Side) for call in calls)
    )
    if not valid:
        raise ConfigError("this is not a trace of specreason-sgl (a value has the wrong type)")
    return trace


def _is_valid_step(step: Step) -> bool:
    optional = [text for text in (step.rejected, step.undrafted) if text is not None]
    return (
        step.author in get_args(Author)
        and _are(str, step.text, *optional)
        and _are(int | float, step.tokens, step.draft_tokens, 0 if step.score is None else step.score)
        and all(_are(str, c.drafted, c.text) and _are(int | float, c.regret) for c in step.corrections)
        and all(isinstance(c.at, int) and 0 <= c.at <= len(step.text) for c in step.corrections)
        and all(_are(str, token.text, token.first) for token in step.reading)
        and all(_are(int | float, token.regret) and isinstance(token.at, int) for token in step.reading)
    )


def _are(kind: type | UnionType, *values: object) -> bool:
    return all(isinstance(value, kind) for value in values)
