"""`Calibration`: which verifier judges a pair's steps best, and which values the steps get; a file."""

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
        draft_model, base_model: the pair.
        verifier: the name of the built-in verifier that judged best.
        keep: the share of drafted steps that `threshold` keeps.
        threshold: in the verifier's units.
        values: the drafted steps' values in ascending order: at most 1001 of them, evenly picked.
        table: each verifier's figures (see `evaluation.calibrate`).
        data: the problems: their source, their number, the number of their steps.
        version: of the file's format.
    """

    draft_model: str
    base_model: str
    verifier: str
    keep: Annotated[float, msgspec.Meta(gt=0, le=1)]
    threshold: float
    values: tuple[float, ...]
    table: tuple[dict[str, Any], ...] = ()
    data: dict[str, Any] = msgspec.field(default_factory=dict)
    version: Literal[1] = 1

    def settings(self, keep: float | None = None) -> dict[str, Any]:
        """The calibrated judgement as arguments of `SpecReasonConfig`: `repair`, `verifier` and `threshold`.
        With a share to `keep`, the threshold follows from the values."""
        threshold = self.threshold if keep is None else Quantile(keep, self.values)
        return {"repair": Rewrite(), "verifier": get_verifier(self.verifier), "threshold": threshold}

    def save(self, path: Path) -> None:
        """Write it to a file, which appears only when it is complete."""
        files.write(Path(path), self)

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            ConfigError: the file cannot be read, is not a calibration, or is one of another version.
        """
        calibration = files.read(path, cls, "a calibration of specreason-sgl")
        try:
            get_verifier(calibration.verifier)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        return calibration


def get_calibration(pair: str) -> Calibration | None:
    """The package's own calibration of a named pair, or None."""
    path = BUILT_IN / f"{pair}.json"
    return Calibration.load(path) if path.exists() else None
