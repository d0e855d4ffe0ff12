"""The area under the ROC curve (AUC)."""

from collections.abc import Sequence

import numpy as np


def auc(
    better: Sequence[float] | np.ndarray,
    worse: Sequence[float] | np.ndarray,
    times_better: np.ndarray | None = None,
    times_worse: np.ndarray | None = None,
) -> np.ndarray:
    """How often a value of `better` is above a value of `worse`; ties count half. NaN where either is empty.

    Args:
        better, worse: values, of shapes (n,) and (m,).
        times_better, times_worse: how often each counts, of shapes (..., n) and (..., m); default: once.

    Returns:
        Of shape (...).
    """
    better, worse = np.asarray(better, float)[:, None], np.asarray(worse, float)
    times_better = np.ones(len(better)) if times_better is None else times_better
    times_worse = np.ones(len(worse)) if times_worse is None else times_worse
    above = (better > worse) + (better == worse) / 2
    pairs = times_better.sum(-1) * times_worse.sum(-1)
    with np.errstate(invalid="ignore"):
        return ((times_better @ above) * times_worse).sum(-1) / pairs
