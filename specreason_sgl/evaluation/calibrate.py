"""Choose a pair's setting: the fastest of those that keep the base model's accuracy, with some confidence.

The base model alone and a grid of settings solve the same problems, as a run of `eval`; `certify` says which
settings pass.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from specreason_sgl.errors import ConfigError, ServerError, SpecReasonError
from specreason_sgl.evaluation.certify import Guarantee, p_value
from specreason_sgl.evaluation.evaluate import RunOptions, run_evaluation
from specreason_sgl.evaluation.groups import OF_EVERY_RUN
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.evaluation.records import read_run
from specreason_sgl.evaluation.report import Report, Row
from specreason_sgl.evaluation.settings import Setting, expand
from specreason_sgl.evaluation.tasks import Runtimes
from specreason_sgl.evaluation.time_left import time_left
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.batch import solve_alone_batch
from specreason_sgl.reasoning.calibration import Calibration, Point
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.knobs import knobs_of
from specreason_sgl.reasoning.repair import name_of
from specreason_sgl.reasoning.verifiers import VERIFIERS


@dataclass(frozen=True)
class Grid:
    """The base model alone, and settings to compare with it in chains, each with the strictest first."""

    base: Setting
    chains: tuple[tuple[Setting, ...], ...]

    @property
    def settings(self) -> list[Setting]:
        return [self.base, *itertools.chain(*self.chains)]


def grid(
    common: Mapping[str, Any],
    *,
    deltas: Sequence[float],
    windows: Sequence[int | str] = (),
    thresholds: Sequence[float] = (),
) -> Grid:
    """Settings of the correction, and of the paper's repair if there are thresholds.

    Args:
        common: values of further knobs, which all settings share (see `config_of`); a verifier judges the
            steps of the paper's repair.
        deltas: of `Correct`, in a chain for each of the `windows`.
        thresholds: of `Rewrite`, one more chain.

    Raises:
        ConfigError: a value is out of range, or there is a verifier without thresholds.
    """
    if "verifier" in common and not thresholds:
        raise ConfigError("verifier must come with threshold, got none", "verifier", "threshold")
    given = {name: [value] for name, value in common.items()}
    corrected = expand(["correct"], {**given, "window": windows, "delta": sorted(deltas)})
    chains = [
        tuple(chain) for _, chain in itertools.groupby(corrected, lambda each: each.config.repair.window)
    ]
    if thresholds:
        strict_first = sorted(thresholds, reverse=True)
        chains.append(tuple(expand(["pipelined"], {**given, "threshold": strict_first})))
    [base] = expand(["base"], given)
    return Grid(base, tuple(chains))


def seconds_left(
    problems: Sequence[Problem], grid: Grid, record: Path, base: Endpoint, options: RunOptions
) -> float:
    """About how long the run still takes. In a new run the base model alone solves the first problems for
    this, and each setting is taken to be as fast.

    Args:
        record, options: as in `calibrate`.

    Raises:
        SpecReasonError: the record is of something else, or the runtime failed.
    """
    samples = read_run(record)[1] if record.exists() else []
    tried = {}
    if not any(sample.trace for sample in samples):
        tried[grid.base.name] = _seconds_of_base(problems[: options.concurrency], grid, base, options)
    left = time_left(len(problems), grid.settings, replace(options, retry_failed=True), samples, tried)
    return sum(each.seconds for each in left.values())


def _seconds_of_base(problems: Sequence[Problem], grid: Grid, base: Endpoint, options: RunOptions) -> float:
    """The mean time that the base model alone takes for a problem."""
    results = solve_alone_batch(
        [problem.prompt for problem in problems], endpoint=base, config=grid.base.config,
        timeout=options.timeout, concurrency=options.concurrency,
    )  # fmt: skip
    traces = []
    for result in results:
        if isinstance(result, SpecReasonError):
            raise result
        traces.append(result)
    return fmean(trace.seconds for trace in traces)


def calibrate(
    problems: Sequence[Problem],
    grid: Grid,
    guarantee: Guarantee,
    record: Path,
    runtimes: Runtimes,
    options: RunOptions,
    *,
    data: str = "",
    seed: int = 0,
) -> Calibration:
    """Solve the problems with the base model alone and with each setting, and choose one.

    Args:
        problems: other ones than those that the setting is evaluated on later.
        guarantee: what a setting must keep, over the grid's chains.
        record: the run's file, for `Report.read`. The same call continues an interrupted run.
        runtimes, options, data, seed: as in `run_evaluation`; failed samples are always done again.

    Raises:
        ConfigError: the file is of another run.
        ServerError: a runtime failed, or a sample did; what was solved is in the record.
    """
    options = replace(options, retry_failed=True)
    samples = run_evaluation(problems, grid.settings, record, runtimes, options, data=data, seed=seed)
    if failed := [sample.error for sample in samples if sample.error]:
        raise ServerError(
            f"{len(failed)} of {len(samples)} samples failed, the first with {failed[0]}; the same command "
            "does them again"
        )
    return _calibration(problems, grid, guarantee, record)


def _calibration(problems: Sequence[Problem], grid: Grid, guarantee: Guarantee, record: Path) -> Calibration:
    """What a finished run says."""
    (head, _), rows = read_run(record), {row.setting: row for row in Report.read(record).rows}
    alone, config, curve = rows[grid.base.name], grid.base.config.as_dict(), curve_of(rows, grid, guarantee)
    return Calibration(
        draft_model=head.draft_model,
        base_model=head.base_model,
        loss=guarantee.loss,
        confidence=guarantee.confidence,
        data=head.data,
        problems=head.problems,
        problem_hashes=tuple(problem.hash for problem in problems),
        concurrency=head.concurrency,
        common={name: config[name] for name in OF_EVERY_RUN},
        base_accuracy=alone.right.value,
        base_seconds=alone.seconds.value,
        curve=curve,
        chosen=fastest(curve),
    )


def curve_of(rows: Mapping[str, Row], grid: Grid, guarantee: Guarantee) -> tuple[Point, ...]:
    """The curve: each setting's figures, and whether it passes.

    Args:
        rows: figures of the base model and of each setting, on the same problems, by the setting's name.
    """
    curve = []
    for chain in grid.chains:
        measured = [rows[setting.name] for setting in chain]
        ps = [
            p_value(int(row.only_base), int(row.only_this), row.problems, guarantee.loss / 100)
            for row in measured
        ]
        passing = guarantee.passes(ps)
        curve += [_point(*each) for each in zip(chain, measured, ps, passing, strict=True)]
    return tuple(curve)


def fastest(curve: Sequence[Point]) -> str | None:
    """The name of the passing setting that takes the least time, or None."""
    passing = [point for point in curve if point.passes]
    return min(passing, key=lambda point: point.seconds).setting if passing else None


def _point(setting: Setting, row: Row, p: float, passes: bool) -> Point:
    low, high = (None if math.isnan(end) else end for end in (row.difference.low, row.difference.high))
    return Point(
        setting=setting.name,
        knobs=_knobs(setting.config),
        accuracy=row.right.value,
        difference=row.difference.value,
        low=low,
        high=high,
        lost=int(row.only_base),
        won=int(row.only_this),
        p=p,
        passes=passes,
        seconds=row.seconds.value,
        over_base=row.over_base.value,
        corrections=100 * row.corrections / row.tokens,
        prefills=row.prefills,
    )


def _knobs(config: SpecReasonConfig) -> dict[str, Any]:
    """How drafts are judged and repaired, by name."""
    repair = config.repair
    of_repair = {name: getattr(repair, name) for name in knobs_of(type(repair))}
    knobs = {"repair": name_of(repair), **of_repair}
    if config.verifier is None:
        return knobs
    verifier = next(name for name, known in VERIFIERS.items() if known == config.verifier)
    return {**knobs, "verifier": verifier, "threshold": config.threshold}
