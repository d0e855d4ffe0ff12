"""Calibrations in use, whose own problems must not be evaluated."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.reasoning.calibration import (
    Calibration,
    StepThreshold,
    find_calibration,
    get_calibration,
    get_step_threshold,
)

REWRITES = ("sequential", "pipelined")  # the modes that a pair's threshold judges where nothing else does


def calibrations(
    modes: Sequence[str], given: Mapping[str, Sequence[Any]], pair: str | None
) -> dict[str, Calibration | StepThreshold]:
    """The calibrations that settings use, by name; arguments as of `settings.expand`."""
    if names := [str(name) for name in given.get("calibration", ()) if name]:
        return {name: find_calibration(name) for name in names}
    used: dict[str, Calibration | StepThreshold | None] = {}
    if pair and set(modes) & {"correct", *REWRITES}:
        used[pair] = get_calibration(pair)
    if pair and not given.get("verifier") and set(modes) & set(REWRITES):
        used[f"{pair}-steps"] = get_step_threshold(pair)
    return {name: calibration for name, calibration in used.items() if calibration}


def check_untouched(
    problems: Iterable[Problem], calibrations: Mapping[str, Calibration | StepThreshold]
) -> None:
    """Refuse problems that a calibration was made on. Files that do not name their problems are not checked.

    Raises:
        ConfigError: says how many, and the first one's id.
    """
    for name, calibration in calibrations.items():
        hashes = set(calibration.problem_hashes or ())
        if used := [problem.id for problem in problems if problem.hash in hashes]:
            raise ConfigError(
                f"data must be other problems than those of the calibration {name}, which was made on "
                f"{len(used)} of them, the first {used[0]}; use --offset or --ids"
            )
