"""A `SpecReasonConfig` from plain data: what the command line, a request to the API or a sweep gives."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import Quantile
from specreason_sgl.reasoning.calibration import Calibration, get_calibration
from specreason_sgl.reasoning.config import PAPER_THRESHOLD, SpecReasonConfig
from specreason_sgl.reasoning.knobs import JUDGE, as_markdown, knob, knobs_of, settings
from specreason_sgl.reasoning.repair import Correct, Repair, Rewrite
from specreason_sgl.reasoning.verifiers import BUILT_IN, UtilityScore, Verifier


@settings
class Shortcuts:
    """Knobs that stand for a verifier or a threshold."""

    keep: float | None = knob(
        None,
        "Instead of a threshold: keep this share of the drafted steps, the best.",
        panel=JUDGE,
        scope="judging",
        gt=0,
        le=1,
    )
    calibration: str | None = knob(
        None,
        "A file of `calibrate`, or the name of a pair that has one here (mini): it names a verifier and its "
        "threshold.",
        panel=JUDGE,
        scope="judging",
        places=("cli",),
    )


KNOBS = knobs_of(SpecReasonConfig, Correct, Shortcuts)
TOKENS = tuple(knobs_of(Correct))
JUDGING = ("verifier", "threshold", "keep", "calibration")


def config_of(
    given: Mapping[str, Any], *, defaults: SpecReasonConfig | None = None, pair: str | None = None
) -> SpecReasonConfig:
    """The settings that some values of `KNOBS` make; None stands for one that is not given.

    What is not given is as in `defaults`. `repair` is then `rewrite` where a verifier, a threshold, a share
    to keep or a calibration is given, else `correct`; together with `correct` these say which steps are kept
    whole.

    Args:
        given: by name.
        defaults: those of a server; None: `SpecReasonConfig()`.
        pair: a named pair. Its calibration in the package judges where steps are rewritten and nothing else
            says how; where it has none, the paper's digit with a threshold of 7.

    Raises:
        ConfigError: a value is out of its range, the values contradict each other, or a threshold is missing.
    """
    defaults = defaults or SpecReasonConfig()
    values = {name: value for name, value in given.items() if value is not None}
    tokens, judging = _taken(values, TOKENS), _taken(values, JUDGING)
    if {"threshold", "keep"} <= judging.keys():
        raise ConfigError("threshold and keep must not be given together", "threshold", "keep")
    if "keep" in judging:
        Shortcuts(keep=judging["keep"])  # checks its range
    repair = values.pop("repair", None)
    if tokens or judging or repair:
        values |= _judged(repair, tokens, judging, defaults, pair)
    return replace(defaults, **values)


def _judged(
    repair: str | None,
    tokens: dict[str, Any],
    judging: dict[str, Any],
    defaults: SpecReasonConfig,
    pair: str | None,
) -> dict[str, Any]:
    """`repair`, `verifier` and `threshold`."""
    default = "correct" if isinstance(defaults.repair, Correct) else "rewrite"
    if not repair:
        repair = "correct" if not judging else default if defaults.judge else "rewrite"
    made = _repair(repair, tokens, defaults.repair)
    names_verifier = "verifier" in judging or "calibration" in judging
    if defaults.judge and not names_verifier and (judging or repair == default):
        verifier, threshold = defaults.verifier, _threshold(defaults.threshold, **judging)
    elif repair == "correct" and not judging:
        verifier = threshold = None
    else:
        verifier, threshold = _judge(pair if repair == "rewrite" else None, **judging)
    return {"repair": made, "verifier": verifier, "threshold": threshold}


def _repair(name: str, tokens: dict[str, Any], default: Repair) -> Repair:
    if name == "correct":
        return replace(default if isinstance(default, Correct) else Correct(), **tokens)
    if name != "rewrite":
        raise KNOBS["repair"].error(name)
    if tokens:
        raise ConfigError(
            f"{' and '.join(tokens)} must come with repair correct, got rewrite (which verifier, threshold, "
            "keep and calibration mean where repair is not given)",
            "repair",
            *tokens,
        )
    return default if isinstance(default, Rewrite) else Rewrite()


def _judge(
    pair: str | None,
    verifier: str | None = None,
    threshold: float | None = None,
    keep: float | None = None,
    calibration: str | Path | None = None,
) -> tuple[Any, Any]:
    """A verifier and a threshold or rule for it."""
    if verifier and calibration:
        raise ConfigError(
            "verifier and calibration must not be given together: a calibration names its verifier",
            "verifier",
            "calibration",
        )
    known = None
    if calibration:
        # Servers named by URL may serve a pair's models, though no pair is named.
        packaged = None if Path(calibration).is_file() else get_calibration(str(calibration))
        known = packaged or Calibration.load(Path(calibration))
    elif pair and not verifier and threshold is None:
        known = get_calibration(pair)
    if known:
        calibrated = known.settings(keep)
        return calibrated["verifier"], calibrated["threshold"] if threshold is None else threshold
    judge = _verifier(verifier or "score")
    if threshold is None and keep is None and not isinstance(judge, UtilityScore):
        raise ConfigError(
            f"threshold, keep or calibration must be given with the verifier {verifier}",
            "threshold", "keep", "calibration", "verifier",
        )  # fmt: skip
    return judge, _threshold(PAPER_THRESHOLD, threshold, keep)


def _threshold(default: Any, threshold: float | None = None, keep: float | None = None) -> Any:
    if keep is not None:
        return Quantile(keep, default.known if isinstance(default, Quantile) else ())
    return default if threshold is None else threshold


def _verifier(name: str) -> Verifier:
    if name not in BUILT_IN:
        raise KNOBS["verifier"].error(name)
    return BUILT_IN[name]


def _taken(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: values.pop(name) for name in names if name in values}


def settings_page() -> str:
    """docs/settings.md."""
    return f"""# Settings

Each knob of a run is declared once, in `specreason_sgl/reasoning`, and this page is made from the
declarations: `make docs-tables`. `delta`, `numeric_delta` and `window` are arguments of `Correct`, the others
of `SpecReasonConfig`; `keep` and `calibration` stand for a threshold on the command line and in the API. In
the API a knob is a field of `specreason`, but for `temperature` and `top_p`, which are OpenAI's own parameters.

{as_markdown(KNOBS)}"""
