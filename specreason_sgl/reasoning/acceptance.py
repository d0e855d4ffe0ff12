"""Which judged steps are kept. A rule sees the value and those judged before it in the run, in order, so that
the same steps always get the same decisions."""

import bisect
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.trace import Step


class Rule(Protocol):
    def keeps(self, value: float, earlier: Sequence[float]) -> bool:
        """Whether a drafted step with this value is kept, after those with the `earlier` values."""


@dataclass(frozen=True)
class Threshold:
    """Keep a step whose value is at least `at` (SpecReason, arXiv 2504.07891, section 4.1)."""

    at: float

    def keeps(self, value: float, earlier: Sequence[float]) -> bool:
        return value >= self.at


@dataclass(frozen=True)
class Quantile:
    """Keep the best share of the steps, and those that are no worse than the worst of these.

    Attributes:
        keep: the share, above 0 and at most 1.
        known: values of a calibration to compare with. Without them, a step is compared with the earlier ones
            of its own run: the first few are kept, until there are enough to tell.
    """

    keep: float
    known: tuple[float, ...] = ()

    def __post_init__(self):
        check_share(self.keep)
        object.__setattr__(self, "known", tuple(sorted(self.known)))

    def keeps(self, value: float, earlier: Sequence[float]) -> bool:
        others = self.known or sorted(earlier)
        worst = math.floor((1 - self.keep) * (len(others) + 1) + 1e-9)
        return bisect.bisect_right(others, value) >= worst


@dataclass(frozen=True)
class FixedShare:
    """Keep a fixed share of the steps whatever their values, evenly spread: for measuring speed at an
    acceptance that does not depend on the pair.

    Attributes:
        share: from 0 to 1.
        seed: which of the steps.
    """

    share: float
    seed: int = 0

    def __post_init__(self):
        if self.share != 0:
            check_share(self.share)

    def keeps(self, value: float, earlier: Sequence[float]) -> bool:
        offset = len(earlier) + random.Random(self.seed).random()
        return math.floor((offset + 1) * self.share) > math.floor(offset * self.share)


FIRST_PAUSE, LONGEST_PAUSE = 4, 64  # steps; doubled while the draft after a pause is rejected too
WORTH = 2  # a kept step saves about as much time as so many rejected ones lose, or more


def is_paused(steps: Sequence[Step], patience: int) -> bool:
    """Whether the step after these is the base model's alone, because too many drafts were rejected.

    Drafting has `patience` steps of credit. A rejected step costs one, a kept one brings `WORTH`. Where none
    is left drafting pauses, and then one step is drafted. So however bad the drafts are, a run of n steps has
    about patience + log2(n / 4) of them. It depends on the steps alone.
    """
    return patience > 0 and _credit(steps, patience)[1] > 0


def is_on_trial(steps: Sequence[Step], patience: int) -> bool:
    """Whether the step after these is drafted although the drafts have cost more than they have brought."""
    credit, left = _credit(steps, patience)
    return patience > 0 and credit < patience and left == 0


def _credit(steps: Sequence[Step], patience: int) -> tuple[int, int]:
    """The credit that drafting has left, and the steps of a pause that are still to come."""
    credit, pause, left = patience, FIRST_PAUSE, 0
    for step in steps:
        if step.author == "draft":
            credit, pause = max(credit, 0) + WORTH, FIRST_PAUSE
        elif step.author == "base" and step.rejected is not None:
            credit -= 1
            if credit <= 0:
                left, pause = pause, min(2 * pause, LONGEST_PAUSE)
        elif left:
            left -= 1
    return credit, left


def check_share(value: float) -> None:
    """Raise a `ConfigError` where this is no share of steps to keep."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
        raise ConfigError(f"the share of steps to keep is above 0 and at most 1, not {value!r}")
