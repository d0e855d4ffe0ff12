"""What an evaluation compares: modes, each with every combination of the knobs that are swept."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.calibration import judging
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.verifiers import RewardModel, SameMeaning, UtilityScore

_ALL = ("token_budget", "answer_tokens", "temperature", "top_p", "instruction")  # of every mode
_STEPS = (*_ALL, "step_tokens", "first_base_steps")
_JUDGE = ("threshold", "keep")
_OURS = (*_STEPS, *_JUDGE, "candidates", "salvage")
# Of each mode, the knobs that it has. `paper` is SpecReason as published (arXiv 2504.07891): the most likely
# digit, a static threshold, one thing at a time. `lookahead` and `reward` take their judges from Lookahead
# Reasoning (arXiv 2506.19830) and reward-guided speculative decoding (arXiv 2501.19324).
KNOBS: dict[str, tuple[str, ...]] = {
    "base": _ALL,
    "draft": _ALL,
    "specreason": _OURS,
    "pipelined": (*_OURS, "lookahead", "eager_rewrite"),
    "paper": (*_STEPS, "threshold"),
    "lookahead": (*_STEPS, "lookahead"),
    "reward": (*_STEPS, "reward_threshold"),
}
MODES = tuple(KNOBS)
ALONE = ("base", "draft")
DRAFT_TIMEOUT = 3600.0  # seconds: a loaded runtime is waited for, as long as the sample has time
_DIGIT = ("", "score", "score-average")  # verifiers with the digit's units


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
        knobs: values by knob, one or more each; those of `SpecReasonConfig`, `keep` and `reward_threshold`.
        pair, verifier, calibration: judge the steps of `specreason` and `pipelined`, as in `judging`.
            Where they name no digit, `threshold` is not in `paper`'s units, and that keeps 7.
        reward: the reward model's `Endpoint`.

    Raises:
        ConfigError: a value is out of its range, or `reward` is missing.
    """
    if "reward" in modes and reward is None:
        raise ConfigError("the mode reward needs the URL of a reward model's server: --reward-url")
    digit = verifier in _DIGIT and not calibration
    made = []
    for mode in modes:
        mine = [
            one for one in knobs if one in KNOBS[mode] and (mode != "paper" or digit or one not in _JUDGE)
        ]
        for values in itertools.product(*(knobs[one] for one in mine)):
            chosen = dict(zip(mine, values, strict=True))
            if mode == "lookahead":
                chosen["lookahead"] = max(chosen.get("lookahead", 1), 1)
            swept = [f"{one.replace('_', '-')}={chosen[one]:g}" for one in mine if len(knobs[one]) > 1]
            if mode == "paper":
                threshold = chosen.pop("threshold", None)
                judge = {"verifier": UtilityScore(), "threshold": 7.0 if threshold is None else threshold}
            elif mode == "lookahead":
                judge = {"verifier": SameMeaning(), "threshold": 0.5}
            elif mode == "reward":
                judge = {"verifier": RewardModel(reward), "threshold": chosen.pop("reward_threshold", 0.7)}
            elif mode in ALONE:
                judge = {}
            else:
                rule = {one: chosen.pop(one, None) for one in _JUDGE}
                judge = judging(pair=pair, verifier=verifier, calibration=calibration, **rule)
            if mode in ("paper", "lookahead", "reward"):
                chosen["patience"] = 0  # they draft every step
            if mode in ("paper", "reward", "specreason"):
                chosen["lookahead"] = 0
            config = SpecReasonConfig(**judge, **chosen, draft_timeout=DRAFT_TIMEOUT)
            made.append(Setting(" ".join([mode, *swept]), mode, config))
    return list({one.name: one for one in made}.values())
