"""The calibration of a verifier for a pair of models: a file that says which values its steps get."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import Quantile
from specreason_sgl.reasoning.config import PAPER_THRESHOLD
from specreason_sgl.reasoning.repair import AUTO, Correct, Repair, Rewrite
from specreason_sgl.reasoning.verifiers import UtilityScore, get_verifier

VERSION = 1
BUILT_IN = Path(__file__).parent / "calibrations"
REPAIRS = ("correct", "rewrite")
WHOLE_STEPS = "step"
WINDOWS = (AUTO, WHOLE_STEPS)  # windows that are no number of tokens


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


def judging(
    *,
    pair: str | None = None,
    repair: str | None = None,
    verifier: str | None = None,
    threshold: float | None = None,
    keep: float | None = None,
    calibration: Path | None = None,
    delta: float | None = None,
    numeric_delta: float | None = None,
    window: int | str | None = None,
) -> dict[str, Any]:
    """The `repair`, `verifier` and `threshold` of a `SpecReasonConfig`, from what a user says.

    Args:
        pair: a named pair. Its calibration in the package judges where steps are rewritten and nothing else
            says how; where it has none, the paper's digit with a threshold of 7.
        repair: `correct` or `rewrite`. None: `rewrite` where a verifier, a threshold, a share to keep or a
            calibration is given, else `correct`. With `correct` these say which steps are kept whole.
        verifier: a built-in verifier's name.
        threshold: in the verifier's units.
        keep: instead, the share of drafted steps to keep.
        calibration: a file, or the name of a pair that the package has one for. It names its verifier and
            has a threshold.
        delta, numeric_delta, window: of `Correct`, and its defaults where None. A window may also be "step",
            for whole steps.

    Raises:
        ConfigError: the arguments contradict each other, or a threshold is missing.
    """
    judge = {"verifier": verifier, "threshold": threshold, "keep": keep, "calibration": calibration}
    tokens = {"delta": delta, "numeric_delta": numeric_delta, "window": window}
    is_judged = any(value is not None and value != "" for value in judge.values())
    repair = repair or ("rewrite" if is_judged else "correct")
    made = make_repair(repair, **tokens)
    if repair == "correct" and not is_judged:
        return {"repair": made, "verifier": None, "threshold": None}
    return {"repair": made, **_judge(pair if repair == "rewrite" else None, **judge)}


def make_repair(repair: str, **tokens: float | int | str | None) -> Repair:
    """A `Correct` or a `Rewrite` by its name; `tokens` are `delta`, `numeric_delta` and `window`, as in
    `judging`, and `ConfigError` is raised as there."""
    if repair not in REPAIRS:
        raise ConfigError(f"repair must be 'correct' or 'rewrite', got {repair!r}")
    given = {name: value for name, value in tokens.items() if value is not None}
    if repair == "rewrite":
        if given:
            raise ConfigError(
                f"{', '.join(given)} must come with repair 'correct', got 'rewrite' (meant by a verifier, "
                "a threshold, a share to keep or a calibration without a repair)"
            )
        return Rewrite()
    if isinstance(given.get("window"), str) and given["window"] not in WINDOWS:
        raise ConfigError(f"window must be a whole number from 1, 'auto' or 'step', got {given['window']!r}")
    return Correct(**{name: None if value == WHOLE_STEPS else value for name, value in given.items()})


def _judge(
    pair: str | None,
    verifier: str | None,
    threshold: float | None,
    keep: float | None,
    calibration: Path | None,
) -> dict[str, Any]:
    if threshold is not None and keep is not None:
        raise ConfigError("give a threshold or a share to keep, not both")
    if verifier and calibration:
        raise ConfigError("give a verifier or a calibration, not both: a calibration names its verifier")
    if calibration:
        # Servers named by URL may serve a pair's models, though no pair is named.
        known = None if Path(calibration).is_file() else get_calibration(str(calibration))
        settings = (known or Calibration.load(calibration)).settings(keep)
        return settings if threshold is None else {**settings, "threshold": threshold}
    if pair and not verifier and threshold is None and (known := get_calibration(pair)):
        return known.settings(keep)
    judge = get_verifier(verifier or "score")
    if keep is not None:
        return {"verifier": judge, "threshold": Quantile(keep)}
    if threshold is None and not isinstance(judge, UtilityScore):
        raise ConfigError(f"the verifier {verifier} needs a threshold, a share to keep, or a calibration")
    return {"verifier": judge, "threshold": PAPER_THRESHOLD if threshold is None else threshold}
