"""What an evaluation compares: modes, each with every combination of the knobs that are swept."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.calibration import judging
from specreason_sgl.reasoning.config import PAPER_THRESHOLD, SpecReasonConfig
from specreason_sgl.reasoning.repair import Rewrite
from specreason_sgl.reasoning.verifiers import PaperScore, RewardModel

_ALL = ("token_budget", "answer_tokens", "temperature", "top_p", "instruction")  # of every mode
_STEPS = (*_ALL, "step_tokens", "first_base_steps")
_TOKENS = ("delta", "numeric_delta", "window")
_JUDGE = ("threshold", "keep")
# Of each mode, the knobs that it has. `paper` is SpecReason as published (arXiv 2504.07891): the authors'
# question, a static threshold, one thing at a time. `reward` has a reward model judge, as in reward-guided
# speculative decoding (arXiv 2501.19324).
KNOBS: dict[str, tuple[str, ...]] = {
    "base": _ALL,
    "draft": _ALL,
    "correct": (*_STEPS, *_TOKENS, "confidence", "lookahead"),
    "specreason": (*_STEPS, *_JUDGE, "confidence"),
    "pipelined": (*_STEPS, *_JUDGE, "confidence", "lookahead"),
    "paper": (*_STEPS, "threshold"),
    "reward": (*_STEPS, "reward_threshold"),
}
MODES = tuple(KNOBS)
ALONE = ("base", "draft")
SEQUENTIAL = ("specreason", "paper", "reward")
PATIENT = ("correct", "specreason", "pipelined")  # the papers' methods draft every step
REWARD_THRESHOLD = 0.7
DRAFT_TIMEOUT = 3600.0  # seconds: a loaded runtime is waited for, as long as the sample has time
_DIGIT = ("", "score", "score-average", "score-paper")  # verifiers with the digit's units


@dataclass(frozen=True)
class Setting:
    """One thing to compare: its name says the mode, and of the knobs those that are swept."""

    name: str
    mode: str
    config: SpecReasonConfig


def expand(
    modes: Sequence[str],
    knobs: Mapping[str, Sequence[Any]],
    *,
    pair: str | None = None,
    verifier: str = "",
    calibration: Path | None = None,
    reward: Any = None,
) -> list[Setting]:
    """Every mode with every combination of the values of the knobs that it has.

    Args:
        modes: of `MODES`.
        knobs: values by knob, at least one each; those of `SpecReasonConfig` and `judging`, and
            `reward_threshold`.
        pair, verifier, calibration: judge the steps of `specreason` and `pipelined`, as in `judging`.
            Where they name no digit, `threshold` is not in `paper`'s units, and that keeps 7.
        reward: the reward model's `Endpoint`.

    Raises:
        ConfigError: a value is out of its range, or `reward` is missing.
    """
    if "reward" in modes and reward is None:
        raise ConfigError("the mode reward needs the URL of a reward model's server: --reward-url")
    has_digit = verifier in _DIGIT and not calibration
    judge = {"pair": pair, "verifier": verifier, "calibration": calibration}
    settings = []
    for mode in modes:
        names = [name for name in knobs if name in KNOBS[mode]]
        if mode == "paper" and not has_digit:
            names = [name for name in names if name not in _JUDGE]
        for values in itertools.product(*(knobs[name] for name in names)):
            chosen = dict(zip(names, values, strict=True))
            swept = [
                f"{name.replace('_', '-')}={_shown(chosen[name])}" for name in names if len(knobs[name]) > 1
            ]
            settings.append(Setting(" ".join([mode, *swept]), mode, _config(mode, chosen, judge, reward)))
    return list({setting.name: setting for setting in settings}.values())


def _config(mode: str, knobs: dict[str, Any], judge: dict[str, Any], reward: Any) -> SpecReasonConfig:
    def take(*names: str) -> dict[str, Any]:
        return {name: knobs.pop(name, None) for name in names}

    fixed: dict[str, Any] = {"draft_timeout": DRAFT_TIMEOUT}
    if mode == "correct":
        fixed |= judging(repair="correct", **take(*_TOKENS))
    elif mode == "paper":
        threshold = knobs.pop("threshold", None)
        fixed |= {"repair": Rewrite(), "verifier": PaperScore()}
        fixed |= {"threshold": PAPER_THRESHOLD if threshold is None else threshold}
    elif mode == "reward":
        threshold = knobs.pop("reward_threshold", REWARD_THRESHOLD)
        fixed |= {"repair": Rewrite(), "verifier": RewardModel(reward), "threshold": threshold}
    elif mode not in ALONE:
        fixed |= judging(repair="rewrite", **judge, **take(*_JUDGE))
    if mode in SEQUENTIAL:
        fixed["lookahead"] = 0
    if mode not in (*PATIENT, *ALONE):
        fixed["patience"] = 0
    return SpecReasonConfig(**fixed, **knobs)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
