"""`Calibration`: which verifier judges a pair's steps best, and which values the steps get; a file."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from specreason_sgl import files
from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import Quantile
from specreason_sgl.reasoning.config import PAPER_THRESHOLD
from specreason_sgl.reasoning.repair import AUTO, Correct, Repair, Rewrite
from specreason_sgl.reasoning.verifiers import UtilityScore, get_verifier

BUILT_IN = Path(__file__).parent / "calibrations"
REPAIRS = ("correct", "rewrite")
WHOLE_STEPS = "step"
WINDOWS = (AUTO, WHOLE_STEPS)  # windows that are not a number of tokens


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
    """The `repair`, `verifier` and `threshold` of a `SpecReasonConfig`, from a user's options.

    Args:
        pair: a named pair. Where steps are rewritten and no other option says how to judge them, the
            package's calibration of the pair does; without one, the paper's digit with a threshold of 7.
        repair: `correct` or `rewrite`. None: `rewrite` where a verifier, a threshold, a share to keep or a
            calibration is given, else `correct`. With `correct` these say which steps are kept whole.
        verifier: a built-in verifier's name.
        threshold: in the verifier's units.
        keep: instead, the share of drafted steps to keep.
        calibration: a file, or the name of a pair that the package has one for. It gives the verifier and a
            threshold.
        delta, numeric_delta, window: of `Correct`; None: its defaults. A window may also be "step", for whole
            steps.

    Raises:
        ConfigError: the arguments contradict each other, or a threshold is missing.
    """
    options = {"verifier": verifier, "threshold": threshold, "keep": keep, "calibration": calibration}
    is_judged = any(value is not None and value != "" for value in options.values())
    name = repair or ("rewrite" if is_judged else "correct")
    settings = {"verifier": None, "threshold": None}
    if name == "rewrite" or is_judged:
        settings = _judge(pair if name == "rewrite" else None, **options)
    return {**settings, "repair": make_repair(name, delta=delta, numeric_delta=numeric_delta, window=window)}


def make_repair(repair: str, **tokens: float | int | str | None) -> Repair:
    """A `Correct` or a `Rewrite` by its name.

    Args:
        repair: `correct` or `rewrite`.
        tokens: `delta`, `numeric_delta` and `window`, as in `judging`.

    Raises:
        ConfigError: a value is out of its range, or does not apply to the repair.
    """
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
        # With servers named by URL, the calibration of a named pair may apply although no pair is named.
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
