"""Which judged steps are kept. A rule sees the value and those judged before it in the run, in order, so that
the same steps always get the same decisions."""

import bisect
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from specreason_sgl.errors import ConfigError


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


def check_share(value: float) -> None:
    """Raise a `ConfigError` where this is no share of steps to keep."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
        raise ConfigError(f"the share of steps to keep must be above 0 and at most 1, got {value!r}")
