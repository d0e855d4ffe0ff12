"""The samples of runs by setting, and what a trace counts."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.provenance import parameters
from specreason_sgl.evaluation.records import RunHead, Sample, read_run
from specreason_sgl.reasoning.plain import KNOBS
from specreason_sgl.reasoning.trace import Call, Side, Step, Trace

OF_EVERY_RUN = tuple(name for name, knob in KNOBS.items() if knob.scope == "run")


@dataclass(frozen=True)
class Run:
    """A file of `eval`: its head, and what its samples say of its sessions."""

    path: Path
    head: RunHead
    resumed: tuple[Sample, ...]
    parameters: dict[str, int]

    @property
    def name(self) -> str:
        return Path(self.path.name.removesuffix(".gz")).stem


@dataclass(frozen=True)
class Group:
    """The samples of one setting in one run.

    Attributes:
        number: position of the run among those reported.
        comparable: equal for settings on the same problems with the same models, machine, servers, load,
            budget and sampling.
        samples: that have an answer with a grade.
        failures: that ended with an error. They count as wrong, and have no time.
    """

    run: Run
    number: int
    name: str
    mode: str
    config: dict[str, Any]
    comparable: str
    samples: tuple[Sample, ...]
    failures: tuple[Sample, ...]

    @property
    def wanted(self) -> int:
        """How many samples the run should have."""
        return self.run.head.problems * self.run.head.samples

    @property
    def failed(self) -> int:
        return len(self.failures)

    @property
    def traces(self) -> list[Trace]:
        return [sample.trace for sample in self.samples if sample.trace]

    @cached_property
    def right(self) -> dict[str, float]:
        """The share of right answers among a problem's samples, by problem."""
        return by_problem((*self.samples, *self.failures), lambda sample: bool(sample.right))

    @cached_property
    def seconds(self) -> dict[str, float]:
        """The mean time of a problem's samples, by problem; without failures."""
        return self.by_problem(lambda trace: trace.seconds)

    @property
    def is_single(self) -> bool:
        """Whether each problem has one sample."""
        return len(self.right) == len(self.samples) + len(self.failures)

    def by_problem(self, value: Callable[[Trace], float]) -> dict[str, float]:
        """The mean of a value of traces over a problem's samples, by problem."""
        return by_problem(self.samples, lambda sample: value(sample.trace) if sample.trace else math.nan)


def by_problem(samples: Iterable[Sample], value: Callable[[Sample], float]) -> dict[str, float]:
    """The mean of a value over a problem's samples, by problem."""
    values: dict[str, list[float]] = {}
    for sample in samples:
        values.setdefault(sample.problem, []).append(value(sample))
    return {problem: float(np.mean(each)) for problem, each in values.items()}


def load(paths: Sequence[Path]) -> list[Group]:
    """The settings of some runs, in order. With several runs, names begin with the file's.

    Raises:
        ConfigError: a file is not of a run, or no run has a finished sample.
    """
    groups = [
        group
        for number, path in enumerate(map(Path, paths))
        for group in _groups_of(number, path, several=len(paths) > 1)
    ]
    if not any(group.samples for group in groups):
        raise ConfigError(f"{', '.join(map(str, paths))}: there is no finished sample to report")
    return groups


def _groups_of(number: int, path: Path, several: bool) -> list[Group]:
    head, samples = read_run(path)
    run = Run(path, head, tuple(sample for sample in samples if sample.resumed), _parameters(head))
    prefix = f"{run.name}: " if several else ""
    place = json.dumps(str(head.machine or number)), json.dumps(head.launch)
    common = [*place, head.problems_sha256, head.draft_model, head.base_model, head.concurrency]
    groups = []
    for name, config in head.settings.items():
        done = [sample for sample in samples if sample.setting == name]
        group = Group(
            run=run,
            number=number,
            name=prefix + name,
            mode=config["mode"],
            config=config,
            comparable=json.dumps([*common, *(config.get(knob) for knob in OF_EVERY_RUN)]),
            samples=tuple(sample for sample in done if sample.error is None),
            failures=tuple(sample for sample in done if sample.error is not None),
        )
        groups.append(group)
    return groups


def _parameters(head: RunHead) -> dict[str, int]:
    """Each model's number of parameters, where known."""
    told = head.provenance.parameters if head.provenance else {}
    counts = {"draft": parameters(head.draft_model), "base": parameters(head.base_model)}
    return {side: count for side, count in (counts | told).items() if count}


def alone(group: Group, mode: str, groups: Sequence[Group]) -> Group | None:
    """What a setting is compared with: a model alone, of the setting's own run where it has that."""
    return None if group.mode == mode else next(iter(of_mode(group, mode, groups)), None)


def of_mode(group: Group, mode: str, groups: Sequence[Group]) -> list[Group]:
    """The settings of a mode that a setting is compared with: those of its own run, or else of others."""
    others = [
        other
        for other in groups
        if other.mode == mode and other.comparable == group.comparable and other.samples
    ]
    return [other for other in others if other.number == group.number] or others


def drafted(trace: Trace) -> list[Step]:
    """The steps that the draft model wrote or began, rejected ones included."""
    if trace.mode != "specreason":
        return []
    return [step for step in trace.steps if is_drafted(step)]


def is_drafted(step: Step) -> bool:
    return step.author != "base" or step.rejected is not None or bool(step.corrections)


def requests(trace: Trace, side: Side | None = None) -> list[Call]:
    """All requests of a run, used or not; of one model or of both."""
    return [call for call in (*trace.calls, *trace.wasted) if side in (None, call.side)]


def prefills(trace: Trace) -> int:
    """How often the base model read or scored a drafted text, used or not."""
    return sum(call.purpose in ("read", "score") for call in requests(trace))


def decoded(trace: Trace, side: Side) -> int:
    """Tokens that a model generated."""
    return sum(call.completion_tokens for call in requests(trace, side))


def prompts(trace: Trace, side: Side) -> int:
    """Tokens of a model's prompts, those from its cache included."""
    return sum(call.prompt_tokens for call in requests(trace, side))


def read(trace: Trace, side: Side) -> int:
    """Tokens of prompts that a model computed: without those from its cache."""
    return prompts(trace, side) - sum(call.cached_tokens for call in requests(trace, side))


def flops(trace: Trace, parameters: dict[str, int]) -> float:
    """Floating-point operations: 2 * parameters * tokens decoded or read, of both models; without attention.
    NaN if a model that worked has an unknown size."""
    sides: tuple[Side, ...] = ("draft", "base")
    tokens = {side: decoded(trace, side) + read(trace, side) for side in sides}
    return sum(2.0 * parameters.get(side, math.nan) * count for side, count in tokens.items() if count)
