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
    """How well each verifier judges a pair's steps, as `specreason-sgl calibrate` measured it.

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
            data["values"] = tuple(0.0 + value for value in data["values"])  # fails where it is no number
            data["table"], data["threshold"] = tuple(data["table"]), 0.0 + data["threshold"]
            get_verifier(data["verifier"])
            return cls(**data)
        except OSError as error:
            raise ConfigError(f"the calibration {path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is not a calibration of specreason-sgl ({error})") from None


def get_calibration(pair: str) -> Calibration | None:
    """The calibration that the package has for a named pair, if any."""
    path = BUILT_IN / f"{pair}.json"
    return Calibration.load(path) if path.exists() else None
