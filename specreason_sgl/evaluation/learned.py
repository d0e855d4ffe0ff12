"""Whether a score that is learned from features finds harmful disagreements better than plain regret.

The learner is logistic regression with a ridge penalty. A disagreement's learned score comes from a model
that has seen no disagreement of the same problem.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.auc import auc
from specreason_sgl.evaluation.bootstrap import interval
from specreason_sgl.evaluation.disagreements import Branched
from specreason_sgl.evaluation.estimates import Estimate, mcnemar
from specreason_sgl.evaluation.features import FEATURES

FOLDS = 5
RIDGE = 1.0  # half of it, times the squared coefficients, is taken from the log likelihood
CAUGHT = (0.8, 0.9)  # shares of the harmful disagreements
RESAMPLES = 1000
MOST_STEPS = 50


@dataclass(frozen=True)
class Logistic:
    """A logistic model of standardized features.

    Attributes:
        means, deviations, coefficients: of shape (features,); a coefficient is per standard deviation.
        intercept: log odds at the means.
    """

    means: np.ndarray
    deviations: np.ndarray
    coefficients: np.ndarray
    intercept: float

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Log odds of shape (n,), from features of shape (n, features)."""
        return (features - self.means) / self.deviations @ self.coefficients + self.intercept


def fit(features: np.ndarray, labels: np.ndarray, ridge: float = RIDGE) -> Logistic:
    """Fit a logistic model by iteratively reweighted least squares.

    Args:
        features: of shape (n, features).
        labels: of shape (n,), with some of both.
        ridge: as `RIDGE`; the intercept is free.
    """
    means, deviations = features.mean(0), features.std(0)
    deviations[deviations == 0] = 1.0
    x = np.column_stack([np.ones(len(features)), (features - means) / deviations])
    penalty = ridge * np.diag([0.0] + [1.0] * features.shape[1])
    weights = np.zeros(x.shape[1])
    for _ in range(MOST_STEPS):
        expected = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (labels - expected) - penalty @ weights
        step = np.linalg.solve((x.T * (expected * (1 - expected))) @ x + penalty, gradient)
        weights += step
        if np.abs(step).max() < 1e-8:
            break
    return Logistic(means, deviations, weights[1:], float(weights[0]))


def held_out_scores(features: np.ndarray, labels: np.ndarray, problems: np.ndarray) -> np.ndarray:
    """Scores of shape (n,), each of a model that was fitted without its problem's fold.

    Each fold has its share of the problems with a positive label.

    Args:
        features, labels: as in `fit`.
        problems: of shape (n,); all numbers from 0 on are there.
    """
    order = np.random.default_rng(0).permutation(problems.max() + 1)
    order = order[np.argsort(np.bincount(problems, labels)[order] > 0, kind="stable")]
    fold_of = np.empty(len(order), int)
    fold_of[order] = np.arange(len(order)) % FOLDS
    scores = np.empty(len(labels))
    for fold in range(FOLDS):
        held_out = fold_of[problems] == fold
        scores[held_out] = fit(features[~held_out], labels[~held_out]).scores(features[held_out])
    return scores


def needed(scores: np.ndarray, harmful: np.ndarray, share: float, times: np.ndarray) -> np.ndarray:
    """The least share of disagreements to correct, highest scores first, for a share of the harmful ones.

    Disagreements with the same score are corrected together, as by a threshold. NaN where none is harmful.

    Args:
        scores, harmful: of shape (n,).
        share: of the harmful ones, to be caught.
        times: how often each disagreement counts, of shape (..., n).

    Returns:
        Of shape (...).
    """
    order = np.argsort(-scores, kind="stable")
    begins = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    corrected = np.add.reduceat(times[..., order], begins, axis=-1).cumsum(-1)
    caught = np.add.reduceat((times * harmful)[..., order], begins, axis=-1).cumsum(-1)
    enough = (caught >= share * caught[..., -1:] - 1e-9).argmax(-1)
    least = np.take_along_axis(corrected, enough[..., None], -1)[..., 0] / corrected[..., -1]
    return np.where(caught[..., -1] > 0, least, np.nan)


class Row(NamedTuple):
    """How well a score finds harmful disagreements, or the difference of two.

    Attributes:
        auc: area under the ROC curve, harmful against others.
        needed: for each of `CAUGHT`, the share of disagreements that have to be corrected.
    """

    score: str
    auc: Estimate
    needed: tuple[Estimate, ...]


@dataclass(frozen=True)
class Figures:
    """What the branches say.

    Attributes:
        problems: those with a branched disagreement.
        disagreements: branched ones.
        harmful: those where only the base model's token leads to a right answer.
        lucky: those where only the drafted token does.
        p: McNemar's, of the two being equal but for chance.
        rows: plain regret, the learned score, and the learned less the plain.
        coefficients: of a model of all disagreements, per standard deviation of a feature.
    """

    problems: int
    disagreements: int
    harmful: int
    lucky: int
    p: float
    rows: tuple[Row, Row, Row]
    coefficients: dict[str, float]

    @property
    def verdict(self) -> str:
        """Whether the learned score beats regret, in a sentence."""
        low, high = self.rows[2].auc.low, self.rows[2].auc.high
        if low > 0:
            return "The learned score beats plain regret: the interval of the difference leaves out 0."
        if high < 0:
            return "Plain regret beats the learned score: the interval of the difference leaves out 0."
        return "The learned score does not beat plain regret: the interval of the difference has 0 in it."


def figures(branched: Sequence[Branched]) -> Figures:
    """Compare the learned score with plain regret, with 95 % bootstrap intervals over problems.

    The intervals take the held-out scores as given; another draw of problems would also learn another score.

    Raises:
        ConfigError: there are too few problems with a harmful disagreement, or with another one.
    """
    branched = [problem for problem in branched if problem.disagreements]
    pairs = [(i, each) for i, problem in enumerate(branched) for each in problem.disagreements]
    harmful = np.array([each.harmful for _, each in pairs], bool)
    problems = np.array([i for i, _ in pairs], int)
    for kind, label in (("harmful", True), ("harmless", False)):
        if (count := len(set(problems[harmful == label]))) < FOLDS:
            raise ConfigError(
                f"problems with a {kind} disagreement must be at least {FOLDS}, got {count} of "
                f"{len(branched)}: take more problems, or more branches of each"
            )
    values = np.array([[each.features[name] for name in FEATURES] for _, each in pairs])
    scores = values[:, FEATURES.index("regret")], held_out_scores(values, harmful, problems)

    def statistic(times: np.ndarray) -> np.ndarray:
        weights = times[..., problems]
        plain, learned = (
            [
                auc(score[harmful], score[~harmful], weights[..., harmful], weights[..., ~harmful]),
                *(needed(score, harmful, share, weights) for share in CAUGHT),
            ]
            for score in scores
        )
        return np.stack([np.stack(plain), np.stack(learned), np.subtract(learned, plain)])

    bounds = interval(statistic, len(branched), RESAMPLES)
    table = np.stack([statistic(np.ones(len(branched))), *bounds], -1)
    lucky = sum(each.drafted_right and not each.base_right for _, each in pairs)
    return Figures(
        problems=len(branched),
        disagreements=len(pairs),
        harmful=int(harmful.sum()),
        lucky=lucky,
        p=mcnemar(int(harmful.sum()), lucky),
        rows=(_row("regret", table[0]), _row("learned", table[1]), _row("learned - regret", table[2])),
        coefficients=dict(zip(FEATURES, map(float, fit(values, harmful).coefficients), strict=True)),
    )


def _row(score: str, table: np.ndarray) -> Row:
    """A row of estimates, from their values and bounds of shape (1 + len(CAUGHT), 3)."""
    area, *shares = (Estimate(*map(float, bounds)) for bounds in table)
    return Row(score, area, tuple(shares))
