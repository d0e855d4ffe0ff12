"""Calibrations: files that say which settings suit a pair, and the package's own."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from specreason_sgl import files
from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import Quantile
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.knobs import knobs_of
from specreason_sgl.reasoning.repair import REPAIRS, Rewrite
from specreason_sgl.reasoning.verifiers import get_verifier

PACKAGED = Path(__file__).parent / "calibrations"
_WHAT = "a calibration of specreason-sgl"


class Point(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A setting on the curve; accuracies are shares, seconds and prefills means over problems.

    Attributes:
        setting: its name in the run.
        knobs: the repair by name and its knobs; with a verifier its name and the threshold.
        accuracy: of the setting.
        difference: accuracy minus base alone's, paired by problem, with its 95 % interval from `low` to
            `high` (as of `evaluation.estimates.paired_difference`); None below 20 problems.
        lost, won: number of problems that only base alone, or only the setting, solves.
        p: of the hypothesis that the setting loses too much (`evaluation.certify.p_value`).
        passes: whether it was shown not to.
        seconds: of a problem; `over_base`: how many times as long base alone takes.
        corrections: in 100 tokens.
        prefills: how often the base model read or scored a draft.
    """

    setting: str
    knobs: dict[str, Any]
    accuracy: float
    difference: float
    low: float | None
    high: float | None
    lost: int
    won: int
    p: float
    passes: bool
    seconds: float
    over_base: float
    corrections: float
    prefills: float

    def settings(self) -> dict[str, Any]:
        """The arguments for `SpecReasonConfig`. Raises `ConfigError` if the repair is unknown."""
        knobs = dict(self.knobs)
        if (name := knobs.pop("repair", None)) not in REPAIRS:
            raise ConfigError(f"repair must be one of {', '.join(REPAIRS)}, got {name!r}", "repair")
        repair = REPAIRS[name]
        of_repair = {name: knobs.pop(name) for name in knobs_of(type(repair)) if name in knobs}
        return {"repair": replace(repair, **of_repair), **knobs}  # type: ignore[type-var]


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each setting of a pair keeps of the base model's accuracy and how long it takes, and the fastest
    of those that keep it, as `specreason-sgl calibrate` measured it.

    Attributes:
        draft_model, base_model: names of the pair's models.
        loss: most accuracy that a setting may lose, in points.
        confidence: least probability that no setting passes that loses more.
        data: where the problems come from; `problems`: their number.
        problem_hashes: of the problems (`evaluation.Problem.hash`), so that `eval` can refuse them.
        concurrency: problems solved at once.
        common: what all settings have in common: budgets, sampling, instruction.
        base_accuracy, base_seconds: of the base model alone.
        curve: the settings in the order of their tests, the strictest first.
        chosen: name of the setting that passes and takes the least time; None if none passes.
        version: version of the file's format.
    """

    draft_model: str
    base_model: str
    loss: float
    confidence: float
    data: str
    problems: int
    problem_hashes: tuple[str, ...]
    concurrency: int
    common: dict[str, Any]
    base_accuracy: float
    base_seconds: float
    curve: tuple[Point, ...]
    chosen: str | None
    version: Literal[2] = 2

    @property
    def choice(self) -> Point | None:
        """The chosen setting's point on the curve."""
        return next((point for point in self.curve if point.setting == self.chosen), None)

    def settings(self) -> dict[str, Any]:
        """The chosen setting, as arguments for `SpecReasonConfig`.

        Raises:
            ConfigError: none passed.
        """
        if self.choice is None:
            raise ConfigError(
                f"calibration must have a chosen setting; none of its {len(self.curve)} was shown to lose at "
                f"most {self.loss:g} points",
                "calibration",
            )
        return self.choice.settings()

    def save(self, path: Path) -> None:
        """Write the calibration to a file, which appears only when it is complete."""
        files.write(Path(path), self)

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            ConfigError: the file cannot be read, is not a calibration, or has another version.
        """
        calibration = files.read(path, cls, _WHAT)
        if calibration.chosen is not None:
            _check(path, calibration)
        return calibration


class StepThreshold(msgspec.Struct, frozen=True, kw_only=True):
    """A verifier for `Rewrite`, and its thresholds by the share of drafted steps that they keep: version 1 of
    the file, which is read and no longer made.

    Attributes:
        draft_model, base_model: names of the pair's models.
        verifier: name of a built-in verifier.
        keep: share of drafted steps that `threshold` keeps.
        threshold: threshold in the verifier's units.
        values: values of drafted steps in ascending order, evenly sampled.
        problem_hashes: of the problems, where the file names them.
    """

    draft_model: str
    base_model: str
    verifier: str
    keep: Annotated[float, msgspec.Meta(gt=0, le=1)]
    threshold: float
    values: tuple[float, ...]
    problem_hashes: tuple[str, ...] | None = None
    version: Literal[1] = 1

    def settings(self, keep: float | None = None) -> dict[str, Any]:
        """The arguments `repair`, `verifier` and `threshold` for `SpecReasonConfig`.

        Args:
            keep: share of steps to keep, for a threshold from `values`; default: the file's threshold.
        """
        threshold = self.threshold if keep is None else Quantile(keep, self.values)
        return {"repair": Rewrite(), "verifier": get_verifier(self.verifier), "threshold": threshold}

    @classmethod
    def load(cls, path: Path) -> "StepThreshold":
        """Read a file; errors as of `Calibration.load`."""
        threshold = files.read(path, cls, _WHAT)
        _check(path, threshold)
        return threshold


def find_calibration(name: str) -> Calibration | StepThreshold:
    """The calibration of a file's path; or the package's of a pair. `PAIR-steps` are its thresholds, and so
    is `PAIR` if there is no other.

    Raises:
        ConfigError: as of `Calibration.load`.
    """
    packaged = (PACKAGED / f"{name}.json", PACKAGED / f"{name}-steps.json")
    path = next((path for path in (Path(name), *packaged) if path.is_file()), Path(name))
    try:
        return StepThreshold.load(path)
    except files.VersionError:
        return Calibration.load(path)


def get_calibration(pair: str) -> Calibration | None:
    """The package's calibration of a named pair, or None."""
    path = PACKAGED / f"{pair}.json"
    return Calibration.load(path) if path.exists() else None


def get_step_threshold(pair: str) -> StepThreshold | None:
    """The package's thresholds of a named pair for steps that are rewritten, or None."""
    path = PACKAGED / f"{pair}-steps.json"
    return StepThreshold.load(path) if path.exists() else None


def _check(path: Path, calibration: Calibration | StepThreshold) -> None:
    """Refuse a file whose settings are not valid."""
    try:
        SpecReasonConfig(**calibration.settings())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
