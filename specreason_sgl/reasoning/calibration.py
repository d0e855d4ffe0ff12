"""`Calibration`: the file that says which verifier judges a pair's steps best, and with which threshold."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from specreason_sgl import files
from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import Quantile
from specreason_sgl.reasoning.repair import Rewrite
from specreason_sgl.reasoning.verifiers import get_verifier

BUILT_IN = Path(__file__).parent / "calibrations"


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How well each verifier judges a pair's steps, as `specreason-sgl calibrate` measured it.

    Attributes:
        draft_model, base_model: names of the pair's models.
        verifier: name of the built-in verifier that judged best.
        keep: share of drafted steps that `threshold` keeps.
        threshold: threshold in the verifier's units.
        values: values of drafted steps in ascending order: at most 1001, evenly sampled.
        table: figures of each verifier (see `evaluation.calibrate`).
        data: the problems: source, number of problems, number of steps.
        problem_hashes: of the problems (`evaluation.Problem.hash`), so that `eval` can refuse them; None in
            files from before.
        version: version of the file's format.
    """

    draft_model: str
    base_model: str
    verifier: str
    keep: Annotated[float, msgspec.Meta(gt=0, le=1)]
    threshold: float
    values: tuple[float, ...]
    table: tuple[dict[str, Any], ...] = ()
    data: dict[str, Any] = msgspec.field(default_factory=dict)
    problem_hashes: tuple[str, ...] | None = None
    version: Literal[1] = 1

    def settings(self, keep: float | None = None) -> dict[str, Any]:
        """The arguments `repair`, `verifier` and `threshold` for `SpecReasonConfig`.

        Args:
            keep: share of steps to keep, for a threshold from `values`; default: the calibrated threshold.
        """
        threshold = self.threshold if keep is None else Quantile(keep, self.values)
        return {"repair": Rewrite(), "verifier": get_verifier(self.verifier), "threshold": threshold}

    def save(self, path: Path) -> None:
        """Write the calibration to a file, which appears only when it is complete."""
        files.write(Path(path), self)

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            ConfigError: the file cannot be read, is not a calibration, or has another version.
        """
        calibration = files.read(path, cls, "a calibration of specreason-sgl")
        try:
            get_verifier(calibration.verifier)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        return calibration


def get_calibration(pair: str) -> Calibration | None:
    """The package's calibration of a named pair, or None."""
    path = BUILT_IN / f"{pair}.json"
    return Calibration.load(path) if path.exists() else None
