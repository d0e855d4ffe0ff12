"""95 % intervals by bootstrap over problems."""

from collections.abc import Callable

import numpy as np


def interval(statistic: Callable[[np.ndarray], np.ndarray], problems: int, resamples: int) -> np.ndarray:
    """The 2.5th and 97.5th percentile of a statistic over resampled problems; always the same resamples.

    Args:
        statistic: takes how often each problem is in each resample, of shape (resamples, problems); returns
            shape (..., resamples). NaN does not count.
        problems: their number.

    Returns:
        Of shape (2, ...).
    """
    times = np.random.default_rng(0).multinomial(problems, np.full(problems, 1 / problems), resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nanpercentile(statistic(times), [2.5, 97.5], axis=-1)
