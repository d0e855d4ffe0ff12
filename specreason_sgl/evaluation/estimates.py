"""Figures with their 95 % intervals, paired by problem, and tests of their differences."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from specreason_sgl.evaluation.bootstrap import interval

LEAST = 20  # problems: with fewer there is no interval
RESAMPLES = 2000
DEVIATIONS = NormalDist().inv_cdf(0.975)  # of a 95 % interval


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; NaN where there is none."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan

    def shown(self, digits: int = 2, times: int = 1, signed: bool = False) -> str:
        if math.isnan(self.value):
            return ""
        sign = "+" if signed else ""
        value, low, high = (
            f"{times * bound:{sign}.{digits}f}" for bound in (self.value, self.low, self.high)
        )
        to = " to " if signed else "–"
        return value if math.isnan(self.low) else f"{value} ({low}{to}{high})"


@dataclass(frozen=True)
class Point:
    """A setting's seconds and accuracy by problem, each of shape (problems,)."""

    seconds: np.ndarray
    right: np.ndarray


def ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """The sum of one figure over problems by the sum of another; its interval is by bootstrap over problems.

    Args:
        above, below: by problem, of shape (problems,).
    """
    if not sum(below):
        return Estimate()
    dividends, divisors = np.asarray(above, float), np.asarray(below, float)
    return _estimate(lambda times: (times @ dividends) / (times @ divisors), len(above))


def mean(values: Sequence[float]) -> Estimate:
    """The mean over problems; its interval is by bootstrap over problems."""
    return ratio(values, [1.0] * len(values))


def proportion(right: int, n: int) -> Estimate:
    """A share of `n` independent trials, with Wilson's interval."""
    if not n:
        return Estimate()
    if n < LEAST:
        return Estimate(right / n)
    from scipy.stats import binomtest  # half a second

    bounds = binomtest(right, n).proportion_ci(method="wilson")
    return Estimate(right / n, bounds.low, bounds.high)


def paired_difference(only_this: int, only_other: int, n: int) -> Estimate:
    """The difference of two settings' accuracies on the same problems, with one sample of each.

    Its interval is that of the score test (Tango 1998, Statistics in Medicine 17:891). Resampling the
    problems would give one that is too narrow where few are solved by one setting alone.

    Args:
        only_this, only_other: number of problems that only one of them solves.
        n: number of problems.
    """
    if n < LEAST:
        return Estimate((only_this - only_other) / n if n else math.nan)
    from scipy.optimize import brentq

    most = 1 - 1e-9  # of a loss; at 1 no answer deviates, and the score is infinite or 0 by 0

    def score(loss: float) -> float:
        return float(score_statistic(only_other, only_this, n, loss))

    def loss_at(deviations: float) -> float:
        """The true loss that the measured one is so many standard deviations above."""
        if not score(-most) > deviations > score(most):
            return math.copysign(1, -deviations)
        return brentq(lambda loss: score(loss) - deviations, -most, most)

    return Estimate((only_this - only_other) / n, -loss_at(-DEVIATIONS), -loss_at(DEVIATIONS))


def score_statistic(lost: np.ndarray | int, won: np.ndarray | int, problems: int, loss: float) -> np.ndarray:
    """How many standard deviations the measured loss is above `loss`, where `loss` is true."""
    excess = np.asarray(lost) - won
    # The likeliest share of discordant problems solves problems * q^2 - b * q + c = 0.
    b = lost + won + loss * excess
    c = loss * excess - (problems - lost - won) * loss**2
    rate = (b + np.sqrt(np.maximum(b**2 - 4 * problems * c, 0))) / (2 * problems)
    with np.errstate(invalid="ignore"):  # 0 / 0 where the measured loss is `loss`, and no other is possible
        return np.nan_to_num((excess / problems - loss) / np.sqrt((rate - loss**2) / problems))


def mcnemar(only_this: int, only_other: int) -> float:
    """The p-value of McNemar's exact test, two-sided: whether two settings have the same accuracy.

    Args:
        only_this, only_other: number of problems that only one of them solves.
    """
    from scipy.stats import binomtest

    n = only_this + only_other
    return float(binomtest(only_this, n).pvalue) if n else 1.0


def gap_to_line(this: Point, line: Sequence[Point]) -> Estimate:
    """Accuracy above what random routing between other settings reaches in the same mean time.

    A router that sends each problem to one of the settings at random, with the best probabilities, reaches
    the upper envelope of the lines between them; more time than the best of them takes is of no use to it.

    Args:
        this: the setting.
        line: the others: the models alone, and `mix` where it was measured; on the same problems.

    Returns:
        The difference of accuracy; NaN where the setting is faster than each of the others.
    """

    def gap(times: np.ndarray) -> np.ndarray:
        counts = times.sum(-1)
        seconds, right = (times @ this.seconds / counts, times @ this.right / counts)
        stops = [(times @ point.seconds / counts, times @ point.right / counts) for point in line]
        return right - _envelope(seconds, stops)

    return _estimate(gap, len(this.right))


def _envelope(seconds: np.ndarray, stops: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The best accuracy within some seconds, by stopping at, or between, points of (seconds, accuracy)."""
    best = np.full_like(seconds, -np.inf)
    for at, right in stops:
        best = np.fmax(best, np.where(at <= seconds, right, -np.inf))
        for other_at, other_right in stops:
            with np.errstate(invalid="ignore", divide="ignore"):
                share = (seconds - at) / (other_at - at)
            is_between = (at <= seconds) & (seconds <= other_at) & (at < other_at)
            best = np.fmax(best, np.where(is_between, right + share * (other_right - right), -np.inf))
    return np.where(np.isneginf(best), np.nan, best)


def _estimate(statistic: Callable[[np.ndarray], np.ndarray], problems: int) -> Estimate:
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(statistic(np.ones((1, problems)))[0])
    if problems < LEAST or math.isnan(value):
        return Estimate(value)
    low, high = interval(statistic, problems, RESAMPLES)
    return Estimate(value, float(low), float(high))
