"""`config_of`: a `SpecReasonConfig` from plain values, as the command line, the API and sweeps give them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import Quantile
from specreason_sgl.reasoning.calibration import (
    Calibration,
    StepThreshold,
    find_calibration,
    get_calibration,
    get_step_threshold,
)
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.knobs import JUDGE, knob, knobs_of, settings
from specreason_sgl.reasoning.repair import JUDGED_REPAIR, REPAIRS, Repair, name_of
from specreason_sgl.reasoning.verifier import Verifier
from specreason_sgl.reasoning.verifiers import VERIFIERS


@settings
class Shortcuts:
    """Knobs that stand for a verifier, a threshold, or both."""

    keep: float | None = knob(
        default=None,
        help="Instead of a threshold: keep this share of the drafted steps, the best ones.",
        panel=JUDGE,
        scope="judging",
        gt=0,
        le=1,
    )
    calibration: str | None = knob(
        default=None,
        help="A file from `calibrate`, or a pair that the package has a calibration of (mini): its "
        "setting is the default of repair, delta, window, verifier and threshold.",
        panel=JUDGE,
        places=("cli",),
    )


OF_REPAIRS = knobs_of(*map(type, REPAIRS.values()))
KNOBS = knobs_of(SpecReasonConfig) | OF_REPAIRS | knobs_of(Shortcuts)
JUDGING = ("verifier", "threshold", "keep", "calibration")


def config_of(
    given: Mapping[str, Any], *, defaults: SpecReasonConfig | None = None, pair: str | None = None
) -> SpecReasonConfig:
    """Make settings from values of `KNOBS`.

    Values that are not given are those of the calibration's setting, or of `defaults`. Without `repair`, a
    verifier, a threshold or a share to keep means `rewrite`; together with `repair` `correct` they decide
    which steps are kept whole.

    Args:
        given: values by knob name; None means not given.
        defaults: a server's settings; default: those of the package's calibration of the pair, or
            `SpecReasonConfig()`.
        pair: a named pair. If steps are rewritten and nothing says how they are judged, the package's
            threshold for the pair does; without one, the paper's digit with a threshold of 7.

    Raises:
        ConfigError: a value is out of range, values contradict each other, or a threshold is missing.
    """
    values = {name: value for name, value in given.items() if value is not None}
    source = _calibration(values.pop("calibration", None), pair if defaults is None else None)
    defaults = defaults or SpecReasonConfig()
    if isinstance(source, Calibration):
        defaults = replace(defaults, **source.settings())
    elif source:
        values["calibration"] = source
    repairing, judging = _pop(values, tuple(OF_REPAIRS)), _pop(values, JUDGING)
    if {"threshold", "keep"} <= judging.keys():
        raise ConfigError("threshold and keep must not be given together", "threshold", "keep")
    if "keep" in judging:
        Shortcuts(keep=judging["keep"])  # checks its range
    repair = values.pop("repair", None)
    if repairing or judging or repair:
        values |= _repair_and_judge(repair, repairing, judging, defaults, pair)
    return replace(defaults, **values)


def _calibration(name: str | None, pair: str | None) -> Calibration | StepThreshold | None:
    """The calibration of a name; without one the package's of the pair, if it chose a setting."""
    if name:
        return find_calibration(name)
    packaged = get_calibration(pair) if pair else None
    return packaged if packaged and packaged.chosen else None


def _repair_and_judge(
    repair: str | None,
    repairing: dict[str, Any],
    judging: dict[str, Any],
    defaults: SpecReasonConfig,
    pair: str | None,
) -> dict[str, Any]:
    """The values of `repair`, `verifier` and `threshold`."""
    default = name_of(defaults.repair)
    if not repair and judging:
        repair = default if defaults.judge else JUDGED_REPAIR
    elif not repair:
        fits = repairing.keys() <= knobs_of(type(defaults.repair)).keys()
        repair = default if fits else next(iter(_repairs_with(repairing)), "")
    names_verifier = "verifier" in judging or "calibration" in judging
    if defaults.judge and not names_verifier and (judging or repair == default):
        verifier, threshold = defaults.verifier, _threshold(defaults.threshold, **judging)
    elif not judging and repair in REPAIRS and REPAIRS[repair].reads_tokens:
        verifier = threshold = None
    else:
        verifier, threshold = _judge(pair if repair == JUDGED_REPAIR else None, **judging)
    return {
        "repair": _repair(repair, repairing, defaults.repair),
        "verifier": verifier,
        "threshold": threshold,
    }


def _repair(name: str, knobs: dict[str, Any], default: Repair) -> Repair:
    """The repair of a name; what its knobs do not say is as in `default`, where that is one of its kind."""
    repair = default if name == name_of(default) else REPAIRS.get(name)
    if repair is None:
        raise KNOBS["repair"].error(name)
    if others := [knob for knob in knobs if knob not in knobs_of(type(repair))]:
        fitting = " or ".join(_repairs_with(others))
        raise ConfigError(
            f"{' and '.join(others)} must come with repair {fitting}, got {name} (the default with a "
            "verifier, a threshold, keep or a calibration)",
            "repair",
            *others,
        )
    return replace(repair, **knobs)  # type: ignore[type-var]


def _repairs_with(knobs: Iterable[str]) -> list[str]:
    """The names of the repairs that have some knobs."""
    return [name for name in REPAIRS if set(knobs) <= knobs_of(type(REPAIRS[name])).keys()]


def _judge(
    pair: str | None,
    verifier: str | None = None,
    threshold: float | None = None,
    keep: float | None = None,
    calibration: StepThreshold | None = None,
) -> tuple[Any, Any]:
    """A verifier, and a threshold or rule for it."""
    if verifier and calibration:
        raise ConfigError(
            "verifier and calibration must not be given together: this calibration names its verifier",
            "verifier",
            "calibration",
        )
    if pair and not verifier and threshold is None:
        calibration = calibration or get_step_threshold(pair)
    if calibration:
        calibrated = calibration.settings(keep)
        return calibrated["verifier"], calibrated["threshold"] if threshold is None else threshold
    judge = _verifier(verifier or "score")
    if threshold is None and keep is None and judge.default_threshold is None:
        raise ConfigError(
            f"threshold, keep or calibration must be given with the verifier {verifier}",
            "threshold", "keep", "calibration", "verifier",
        )  # fmt: skip
    return judge, _threshold(judge.default_threshold, threshold, keep)


def _threshold(default: Any, threshold: float | None = None, keep: float | None = None) -> Any:
    if keep is not None:
        return Quantile(keep, default.known if isinstance(default, Quantile) else ())
    return default if threshold is None else threshold


def _verifier(name: str) -> Verifier:
    if name not in VERIFIERS:
        raise KNOBS["verifier"].error(name)
    return VERIFIERS[name]


def _pop(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: values.pop(name) for name in names if name in values}
