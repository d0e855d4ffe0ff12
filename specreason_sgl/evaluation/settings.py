"""What an evaluation compares: modes, each with every combination of the knobs that are swept."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.calibration import find_calibration
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.knobs import Knob, Scope, knobs_of
from specreason_sgl.reasoning.knobs import knob as declare
from specreason_sgl.reasoning.knobs import settings as checked
from specreason_sgl.reasoning.plain import KNOBS as ALL_KNOBS
from specreason_sgl.reasoning.plain import config_of
from specreason_sgl.reasoning.verifiers import VERIFIERS, RewardModel, UtilityScore

DRAFT_TIMEOUT = 3600.0  # seconds: a loaded runtime is waited for, as long as the sample has time


class Mode(NamedTuple):
    """A way to solve a problem.

    Attributes:
        scopes: of the knobs that it has.
        fixed: settings of its own; knobs of these names have no effect.
    """

    scopes: tuple[Scope, ...]
    fixed: dict[str, Any]


_ONE_AT_A_TIME = {"lookahead": 0}
_PAPERS = {
    **_ONE_AT_A_TIME,
    "patience": 0,
    "confidence": None,
    "keep": None,
    "calibration": None,
}  # None: none
# `base-whole` is the base model alone on a server with the whole machine, and `mix` sends a share of the
# problems to the draft model alone, the rest to the base model alone: what a random router reaches.
# `paper` is SpecReason as published (arXiv 2504.07891): the authors' question, a static threshold, each step
# drafted, one thing at a time. `reward` has a reward model judge, as in reward-guided speculative decoding
# (arXiv 2501.19324).
_MODES: dict[str, Mode] = {
    "base": Mode(("run",), {}),
    "draft": Mode(("run",), {}),
    "base-whole": Mode(("run",), {}),
    "mix": Mode(("run",), {}),
    "correct": Mode(("run", "drafting", "correcting"), {"repair": "correct"}),
    "sequential": Mode(("run", "drafting", "judging"), {"repair": "rewrite", **_ONE_AT_A_TIME}),
    "pipelined": Mode(("run", "drafting", "judging"), {"repair": "rewrite"}),
    "paper": Mode(
        ("run", "drafting", "judging"), {"repair": "rewrite", "verifier": "score-paper", **_PAPERS}
    ),
    "reward": Mode(("run", "drafting"), {"repair": "rewrite", **_PAPERS}),
}
MODES = tuple(_MODES)
ALONE = ("base", "draft", "base-whole", "mix")


@checked
class ModeKnobs:
    """Knobs of a single mode."""

    reward_threshold: float = declare(
        default=0.7, help="Keep a step with at least this reward (mode reward).", panel="Judge and repair"
    )
    share: float = declare(
        default=0.5, help="Share of the problems that the draft model solves alone (mode mix).",
        panel="Judge and repair", ge=0, le=1,
    )  # fmt: skip


_OF_ONE_MODE = {"reward_threshold": "reward", "share": "mix"}


# What can be swept: all but the repair, which the modes say.
KNOBS: dict[str, Knob] = {**ALL_KNOBS, **knobs_of(ModeKnobs)}
del KNOBS["repair"]


@dataclass(frozen=True)
class Setting:
    """One thing to compare: its name says the mode, and of the knobs those that are swept.

    Attributes:
        share: of the problems that the draft model solves alone, in the mode `mix`.
    """

    name: str
    mode: str
    config: SpecReasonConfig
    share: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain data, for the head of a run."""
        share = {} if self.share is None else {"share": self.share}
        return {"mode": self.mode, **share, **self.config.as_dict()}

    def model_alone(self, problem: str) -> str | None:
        """Which model solves a problem alone: `base`, `draft` or `whole`; None if both work together.

        Args:
            problem: its id, which draws the model where the setting mixes: the same for each run, and a
                larger share has the problems of a smaller one.
        """
        if self.share is not None:
            drawn = int.from_bytes(hashlib.sha256(problem.encode()).digest()[:8]) / 2**64
            return "draft" if drawn < self.share else "base"
        return {"base": "base", "draft": "draft", "base-whole": "whole"}.get(self.mode)


def expand(
    modes: Sequence[str], given: Mapping[str, Sequence[Any]], *, pair: str | None = None, reward: Any = None
) -> list[Setting]:
    """Every mode with every combination of the values of the knobs that it has.

    Args:
        modes: of `MODES`.
        given: values by knob: those of `config_of`, `reward_threshold` and `share`. Where a verifier or a
            calibration is given that is not the digit, `threshold` is not in `paper`'s units, and that keeps
            7. A calibration that chose a verifier is not for `correct`.
        pair: a named pair; what the package has of it is the default of `correct`, and judges the steps of
            `sequential` and `pipelined` where nothing else does.
        reward: the reward model's `Endpoint`.

    Raises:
        ConfigError: a value is out of its range, or `reward` is missing.
    """
    if "reward" in modes and reward is None:
        raise ConfigError("the mode reward needs the URL of a reward model's server: --reward-url")
    settings: dict[str, Setting] = {}
    for mode in modes:
        names = [name for name, values in given.items() if values and _has(mode, name, given)]
        for values in itertools.product(*(given[name] for name in names)):
            chosen = dict(zip(names, values, strict=True))
            swept = (
                f"{name.replace('_', '-')}={_shown(chosen[name])}" for name in names if len(given[name]) > 1
            )
            name = " ".join([mode, *swept])
            of_mode = ModeKnobs(**{knob: value for knob, value in chosen.items() if knob in _OF_ONE_MODE})
            config = _config(mode, chosen, of_mode, pair, reward)
            settings.setdefault(name, Setting(name, mode, config, of_mode.share if mode == "mix" else None))
    return list(settings.values())


def _has(mode: str, name: str, given: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a knob has an effect in a mode."""
    if name in _OF_ONE_MODE:
        return mode == _OF_ONE_MODE[name]
    if mode == "paper" and name == "threshold" and not _is_digit(given):
        return False
    if mode == "correct" and name == "calibration":
        return not _are_judges(given[name])
    return KNOBS[name].scope in _MODES[mode].scopes and name not in _MODES[mode].fixed


def _is_digit(given: Mapping[str, Sequence[Any]]) -> bool:
    verifiers = [VERIFIERS.get(name) for name in given.get("verifier", ()) if name]
    is_score = all(isinstance(verifier, UtilityScore) for verifier in verifiers)
    return is_score and not _are_judges(given.get("calibration", ()))


def _are_judges(calibrations: Sequence[Any]) -> bool:
    """Whether a calibration among these has a verifier."""
    return any("verifier" in find_calibration(str(name)).settings() for name in calibrations if name)


def _config(
    mode: str, chosen: dict[str, Any], own: ModeKnobs, pair: str | None, reward: Any
) -> SpecReasonConfig:
    values = {"draft_timeout": DRAFT_TIMEOUT}
    values |= {
        name: value for name, value in chosen.items() if name not in _OF_ONE_MODE and value is not None
    }
    values |= _MODES[mode].fixed
    if mode == "reward":
        return replace(config_of(values), verifier=RewardModel(reward), threshold=own.reward_threshold)
    if mode == "paper":
        values.setdefault("threshold", UtilityScore.default_threshold)
    return config_of(values, pair=pair)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
