"""The file of a run: its head, and one line per sample."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.evaluation.provenance import Machine, Provenance
from specreason_sgl.evaluation.settings import Setting
from specreason_sgl.files import Head, Line, read_record
from specreason_sgl.reasoning.trace import Trace

Key = tuple[str, int, str]
"""Which sample: the problem's id, the sample's number, the setting's name."""


class Sample(Line, frozen=True, forbid_unknown_fields=True):
    """One problem, solved once with one setting.

    Attributes:
        problem: its id.
        number: which of the problem's samples, from 0.
        setting: its name.
        expected: the right answer.
        right: whether the answer is right; None where the sample failed.
        error: why it failed, or None.
        trace: of the run; None where no answer came.
        resumed: where and with what it was made, if by a later session than the file's first.
    """

    problem: str
    number: int
    setting: str
    expected: str
    right: bool | None
    error: str | None
    trace: Trace | None
    resumed: Provenance | None = None

    @property
    def key(self) -> Key:
        return self.problem, self.number, self.setting


class RunHead(Head, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a run's file: what its samples depend on. A run goes on only if all of it is the
    same, except `provenance`, which is the first session's. Files of version 2 can only be read.

    Attributes:
        data: where the problems come from.
        data_sha256: of the data's file; None if they do not come from one.
        problems: their number.
        problems_sha256: of their ids, prompts and answers.
        ids: of the problems, in order.
        samples: number of samples of each problem with each setting.
        concurrency: samples solved at once.
        seed: of generated problems.
        settings: each setting's mode and knobs, by its name.
        machine: that `eval` ran on; servers at URLs may be on others. None: unknown.
        launch: how `eval` started the servers; None if they were already running.
    """

    uncompared: ClassVar[tuple[str, ...]] = ("provenance",)

    kind: Literal["specreason-sgl eval"] = "specreason-sgl eval"
    version: Literal[2, 3] = 3
    data: str
    data_sha256: str | None = None
    problems: int
    problems_sha256: str
    ids: tuple[str, ...] = ()
    draft_model: str
    base_model: str
    samples: int
    concurrency: int
    seed: int
    settings: dict[str, dict[str, Any]]
    machine: Machine | None = None
    launch: dict[str, Any] | None = None
    provenance: Provenance | None = None


def run_head(problems: Sequence[Problem], settings: Sequence[Setting], data: str, **fields: Any) -> RunHead:
    """The head of a run; `fields` are what does not follow from its problems, settings and data."""
    texts = [(problem.id, problem.prompt, problem.answer) for problem in problems]
    return RunHead(
        data=data,
        data_sha256=_sha256(Path(data).read_bytes()) if Path(data).is_file() else None,
        problems=len(problems),
        problems_sha256=_sha256(msgspec.json.encode(texts)),
        ids=tuple(problem.id for problem in problems),
        settings={setting.name: setting.as_dict() for setting in settings},
        **fields,
    )


def read_run(path: Path) -> tuple[RunHead, list[Sample]]:
    """A run's head and its samples; of a sample that was retried, the last.

    Raises:
        ConfigError: the file cannot be read, or is not an evaluation's; names the line.
    """
    return read_record(path, RunHead, Sample)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
