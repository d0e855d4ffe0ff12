"""The calibration of a verifier for a pair of models: a file that says which values its steps get."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import Quantile
from specreason_sgl.reasoning.verifiers import get_verifier

VERSION = 1
BUILT_IN = Path(__file__).parent / "calibrations"


@dataclass(frozen=True)
class Calibration:
    """What `specreason-sgl calibrate` found out about a pair.

    Attributes:
        draft_model, base_model: the models that were asked.
        verifier: a built-in verifier's name, the best there.
        keep: the share of drafted steps that `threshold` keeps.
        threshold: in the verifier's units.
        values: the drafted steps' values, in order: at most 1001 of them, evenly picked.
        table: of each verifier, its figures (see `evaluation.calibrate`).
        data: what was used: number of problems, of steps, and which.
    """

    draft_model: str
    base_model: str
    verifier: str
    keep: float
    threshold: float
    values: tuple[float, ...]
    table: tuple[dict[str, Any], ...] = ()
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    version: int = VERSION

    def settings(self, keep: float | None = None) -> dict[str, Any]:
        """The verifier and the threshold as arguments of `SpecReasonConfig`; another share to `keep` takes
        its threshold from the values."""
        rule = self.threshold if keep is None else Quantile(keep, self.values)
        return {"verifier": get_verifier(self.verifier), "threshold": rule}

    def save(self, path: Path) -> None:
        text = json.dumps(dataclasses.asdict(self), ensure_ascii=False)
        temporary = path.with_name(path.name + ".part")
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            ConfigError: there is no such file, or it is not a calibration.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["version"] != VERSION:
                raise ConfigError(f"{path} has version {data['version']!r}; this package reads {VERSION}")
            data["values"] = tuple(0.0 + one for one in data["values"])  # fails where one is no number
            data["table"], data["threshold"] = tuple(data["table"]), 0.0 + data["threshold"]
            found = cls(**data)
            get_verifier(found.verifier)
            return found
        except OSError as error:
            raise ConfigError(f"the calibration {path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is not a calibration of specreason-sgl ({error})") from None


def get_calibration(pair: str) -> Calibration | None:
    """The calibration that the package has for a named pair, if any."""
    path = BUILT_IN / f"{pair}.json"
    return Calibration.load(path) if path.exists() else None


def judging(
    *,
    pair: str | None = None,
    verifier: str | None = None,
    threshold: float | None = None,
    keep: float | None = None,
    calibration: Path | None = None,
) -> dict[str, Any]:
    """The `verifier` and `threshold` of a `SpecReasonConfig`, from what a user says.

    A calibration names its verifier and has a threshold. Without all three, the package's own
    calibration for the pair decides; where there is none, the paper's digit with a threshold of 7.

    Args:
        calibration: a file, or the name of a pair that the package has one for.

    Raises:
        ConfigError: the arguments contradict each other, or a threshold is missing.
    """
    if threshold is not None and keep is not None:
        raise ConfigError("give a threshold or a share to keep, not both")
    if verifier and calibration:
        raise ConfigError("give a verifier or a calibration, not both: a calibration names its verifier")
    if calibration:
        # Where servers are named by URL no pair is, but it may be a pair's models that they serve.
        known = None if Path(calibration).is_file() else get_calibration(str(calibration))
        settings = (known or Calibration.load(calibration)).settings(keep)
        return settings if threshold is None else {**settings, "threshold": threshold}
    if pair and not verifier and threshold is None and (known := get_calibration(pair)):
        return known.settings(keep)
    judge = get_verifier(verifier or "score")
    if threshold is None and keep is None and (verifier or "score") in ("score", "score-average"):
        threshold = 7.0
    if threshold is None and keep is None:
        raise ConfigError(f"the verifier {verifier} needs a threshold, a share to keep, or a calibration")
    rule = threshold if keep is None else Quantile(keep)
    return {"verifier": judge, "threshold": rule}
