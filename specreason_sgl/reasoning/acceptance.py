"""Rules: they decide which judged steps are kept.

A rule sees a step's value and the values of the steps judged before it in the run, in order, so that equal
runs get equal decisions.
"""

import bisect
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from specreason_sgl.errors import ConfigError


class Rule(Protocol):
    def keeps(self, value: float, earlier: Sequence[float]) -> bool:
        """Whether to keep a drafted step with this value, after steps with the `earlier` values."""


@dataclass(frozen=True)
class Threshold:
    """Keep the steps whose value is at least `at` (SpecReason, arXiv 2504.07891, section 4.1)."""

    at: float

    def keeps(self, value: float, earlier: Sequence[float]) -> bool:
        return value >= self.at


@dataclass(frozen=True)
class Quantile:
    """Keep the best share of the steps, and all steps that are as good as the worst of these.

    Attributes:
        keep: the share, above 0 and at most 1.
        known: values of a calibration to compare with. Without them, a step is compared with the earlier
            steps of its run, of which the first few are kept.
    """

    keep: float
    known: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_share(self.keep)
        object.__setattr__(self, "known", tuple(sorted(self.known)))

    def keeps(self, value: float, earlier: Sequence[float]) -> bool:
        values = self.known or sorted(earlier)
        least_rank = math.floor((1 - self.keep) * (len(values) + 1) + 1e-9)
        return bisect.bisect_right(values, value) >= least_rank


@dataclass(frozen=True)
class FixedShare:
    """Keep a fixed share of the steps, evenly spread, whatever their values.

    It serves to measure speed at an acceptance rate that does not depend on the pair.

    Attributes:
        share: the share, from 0 to 1.
        seed: selects the steps that are kept.
    """

    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        if self.share != 0:
            check_share(self.share)

    def keeps(self, value: float, earlier: Sequence[float]) -> bool:
        offset = len(earlier) + random.Random(self.seed).random()
        return math.floor((offset + 1) * self.share) > math.floor(offset * self.share)


def check_share(value: float) -> None:
    """Raise a `ConfigError` if the value is not a share of steps to keep."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
        raise ConfigError(f"the share of steps to keep must be above 0 and at most 1, got {value!r}")
