"""Runs as tables for pandas and Parquet: a line for each sample, step, call or token."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.groups import Group
from specreason_sgl.evaluation.records import Sample
from specreason_sgl.reasoning.trace import Trace

if TYPE_CHECKING:
    import pandas

Line = dict[str, Any]
_OF_STEPS = ("text", "author", "end", "tokens", "draft_tokens", "score", "rejected", "undrafted")


def frame(groups: Sequence[Group], level: str) -> "pandas.DataFrame":
    """A table; the columns run, setting, problem and number join one level's lines to another's.

    Args:
        level: `sample`, `step`, `call` (a request, used or not) or `token` (that the base model read).

    Raises:
        ConfigError: there is no such level.
    """
    import pandas  # takes a second

    if level not in _LEVELS:
        raise ConfigError(f"level must be one of {', '.join(_LEVELS)}, got {level!r}", "level")
    return pandas.DataFrame([line for group in groups for line in _lines(group, _LEVELS[level])])


def write_parquet(groups: Sequence[Group], folder: Path) -> None:
    """Write a file for each level, such as `step.parquet`; the folder is made if it is missing."""
    folder.mkdir(exist_ok=True)
    for level in _LEVELS:
        frame(groups, level).to_parquet(folder / f"{level}.parquet")


def _lines(group: Group, level: Callable[[Sample], Iterator[Line]]) -> Iterator[Line]:
    for sample in (*group.samples, *group.failures):
        key = {
            "run": group.run.name,
            "setting": group.name,
            "problem": sample.problem,
            "number": sample.number,
        }
        yield from ({**key, **line} for line in level(sample))


def _sample(sample: Sample) -> Iterator[Line]:
    about: Line = {"right": sample.right, "error": sample.error, "expected": sample.expected}
    about["resumed"] = sample.resumed is not None
    if trace := sample.trace:
        names = (
            "answer",
            "mode",
            "stop",
            "seconds",
            "tokens",
            "wasted_tokens",
            "kept",
            "rewritten",
            "corrections",
        )
        about |= {name: getattr(trace, name) for name in names}
    yield about


def _steps(sample: Sample) -> Iterator[Line]:
    for place, step in enumerate(_trace_steps(sample.trace)):
        fields = {name: getattr(step, name) for name in _OF_STEPS}
        yield {"step": place, **fields, "corrections": len(step.corrections)}


def _calls(sample: Sample) -> Iterator[Line]:
    if trace := sample.trace:
        for place, step in enumerate(trace.steps):
            yield from ({"step": place, "used": True, **msgspec.structs.asdict(call)} for call in step.calls)
        if trace.answer_call:
            yield {"step": None, "used": True, **msgspec.structs.asdict(trace.answer_call)}
        yield from ({"step": None, "used": False, **msgspec.structs.asdict(call)} for call in trace.wasted)


def _tokens(sample: Sample) -> Iterator[Line]:
    for place, step in enumerate(_trace_steps(sample.trace)):
        yield from ({"step": place, **msgspec.structs.asdict(token)} for token in step.reading)


def _trace_steps(trace: Trace | None) -> tuple[Any, ...]:
    return trace.steps if trace else ()


_LEVELS: dict[str, Callable[[Sample], Iterator[Line]]] = {
    "sample": _sample, "step": _steps, "call": _calls, "token": _tokens,
}  # fmt: skip
