"""A run to publish: all that a report counts, without texts and without paths of the machine."""

import gzip
from pathlib import Path
from typing import Any

import msgspec

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.provenance import Provenance
from specreason_sgl.evaluation.records import RunHead, Sample, read_run
from specreason_sgl.reasoning.trace import Call, Step, Trace, model_name

_replace = msgspec.structs.replace


def write_without_texts(run: Path, folder: Path) -> Path:
    """Write a run, compressed, into a folder, which is made if it is missing.

    What is left out: texts of problems, steps, tokens and answers, what errors say beyond their kind, and the
    folders of paths. The settings stay, with their instruction. Requests' times are rounded to milliseconds.
    `Report.read` and `specreason-sgl report` read it as they read the run.

    Returns:
        The file, such as `run.jsonl.gz`.

    Raises:
        ConfigError: `run` is not the file of a run, or the folder has a file of that name.
    """
    path = folder / f"{run.name.removesuffix('.gz')}.gz"
    if path.exists():
        raise ConfigError(f"{path} is already there; name another folder, or remove it")
    head, samples = read_run(run)
    lines = [msgspec.json.encode(line) + b"\n" for line in (_head(head), *map(_sample, samples))]
    folder.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(b"".join(lines), mtime=0))  # the same bytes at any time
    return path


def _head(head: RunHead) -> RunHead:
    about = _provenance(head.provenance) if head.provenance else None
    return _replace(head, data=Path(head.data).name, launch=_names(head.launch), provenance=about)


def _provenance(about: Provenance) -> Provenance:
    return _replace(about, servers=_names(about.servers))


def _names(value: Any) -> Any:
    """A value in which each path of the machine is its last part."""
    if isinstance(value, dict):
        return {name: _names(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [*map(_names, value)]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def _sample(sample: Sample) -> Sample:
    return _replace(
        sample,
        expected="",
        error=sample.error and sample.error.partition(":")[0],
        trace=_trace(sample.trace) if sample.trace else None,
        resumed=_provenance(sample.resumed) if sample.resumed else None,
    )


def _trace(trace: Trace) -> Trace:
    return _replace(
        trace,
        question="",
        answer="",
        draft_model=_model(trace.draft_model),
        base_model=_model(trace.base_model),
        earlier=(),
        steps=tuple(map(_step, trace.steps)),
        answer_call=_call(trace.answer_call) if trace.answer_call else None,
        wasted=tuple(map(_call, trace.wasted)),
    )


def _model(name: str | None) -> str | None:
    return model_name(name) if name and name.startswith("/") else name


def _step(step: Step) -> Step:
    return _replace(
        step,
        text="",
        rejected=None if step.rejected is None else "",
        corrections=tuple(_replace(each, drafted="", text="") for each in step.corrections),
        reading=tuple(_replace(token, text="", first="") for token in step.reading),
        calls=tuple(map(_call, step.calls)),
        undrafted_detail="",
    )


def _call(call: Call) -> Call:
    return _replace(call, start=round(call.start, 3), seconds=round(call.seconds, 3))
