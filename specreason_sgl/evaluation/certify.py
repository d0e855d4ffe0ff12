"""Which settings keep the base model's accuracy, with a stated confidence.

A setting is compared with the base model on the same problems. It loses `lost` of them, which only the base
model solves, and wins `won`, which only the setting solves: the loss of accuracy is (lost - won) / problems.
Settings are tested as in Learn then Test (Angelopoulos et al., arXiv 2110.01052, section 3): each has a valid
p-value of the hypothesis that it loses too much, and the family of tests keeps the error rate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.estimates import score_statistic

DISCORDANT = 0.15  # share of problems that either the base model or a setting solves alone; assumed in plans
POWER = 0.8  # of a plan: how often a setting that loses nothing is to pass
RATES = 128  # shares of discordant problems, over which a p-value is the maximum


@dataclass(frozen=True)
class Guarantee:
    """A setting loses less than `loss` of the base model's accuracy.

    Attributes:
        loss: in points (hundredths of the problems), above 0 and below 100.
        confidence: least probability that no setting passes that loses more.
        chains: of settings, each tested in a fixed sequence. They share the error rate (Bonferroni).
    """

    loss: float
    confidence: float
    chains: int = 1

    def __post_init__(self) -> None:
        for name, most in (("loss", 100), ("confidence", 1)):
            if not 0 < (value := getattr(self, name)) < most:
                raise ConfigError(f"{name} must be above 0 and below {most}, got {value:g}", name)

    @property
    def level(self) -> float:
        """The error rate of a chain."""
        return (1 - self.confidence) / self.chains

    @property
    def problems(self) -> int:
        """How many problems it takes: then a setting passes with a probability of `POWER` if it loses
        nothing, and differs from the base model on `DISCORDANT` of the problems."""
        return math.ceil(self._deviations**2 * DISCORDANT / (self.loss / 100) ** 2)

    def attainable(self, problems: int) -> float:
        """The loss, in points, for which this number of problems is enough."""
        return 100 * self._deviations * math.sqrt(DISCORDANT / problems)

    @property
    def _deviations(self) -> float:
        return NormalDist().inv_cdf(1 - self.level) + NormalDist().inv_cdf(POWER)

    def passes(self, chain: Sequence[float]) -> list[bool]:
        """Which settings of a chain pass: those before the first that fails, by their p-values in order."""
        fails = [p > self.level for p in chain]
        first = fails.index(True) if True in fails else len(fails)
        return [place < first for place in range(len(fails))]


def p_value(lost: int, won: int, problems: int, loss: float) -> float:
    """The p-value of the hypothesis that a setting loses `loss` of the base model's accuracy, or more.

    It is exact and unconditional: the probability of a result as good or better, maximised over the unknown
    share of discordant problems. Results are ordered by the score statistic (Nam 1997, Biometrics 53:1422;
    the exact test: Hsueh, Liu and Chen 2001, Biometrics 57:478). It rises with `lost` and falls with `won`.

    Args:
        lost, won: number of problems that only the base model, or only the setting, solves.
        problems: number of problems that both had.
        loss: above 0 and below 1.
    """
    from scipy.stats import binom  # half a second

    discordant, losses = np.arange(problems + 1)[:, None], np.arange(problems + 1)
    scores = score_statistic(losses, np.maximum(discordant - losses, 0), problems, loss)
    is_as_good = scores <= score_statistic(lost, won, problems, loss) + 1e-9
    most_lost = (is_as_good & (losses <= discordant)).sum(1) - 1  # by number of discordant problems
    rates = loss + (1 - loss) * np.linspace(0, 1, RATES)[:, None] ** 2
    chances = binom.cdf(most_lost, discordant.T, (rates + loss) / (2 * rates))
    return float(min(1.0, (binom.pmf(discordant.T, problems, rates) * chances).sum(1).max()))
