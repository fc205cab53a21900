"""95 % confidence intervals of means, and of paired differences."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["mean_ci95", "paired_ci95"]


def mean_ci95(values: ArrayLike) -> tuple[float, float]:
    """Mean and half-width 1.96 s / sqrt(n), with the sample deviation s (n - 1); nan half-width for one value.

    >>> mean_ci95([1.0, 1.0, 1.0])
    (1.0, 0.0)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        return float(array.mean()), math.nan
    return float(array.mean()), float(1.96 * array.std(ddof=1) / math.sqrt(array.size))


def paired_ci95(a: ArrayLike, b: ArrayLike) -> tuple[float, float]:
    """Mean of a - b over pairs and its half-width by Student's t with n - 1 degrees of freedom; nan for one pair."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    n = difference.size
    if n < 2:
        return float(difference.mean()), math.nan
    from scipy import stats

    quantile = float(stats.t.ppf(0.975, n - 1))
    return float(difference.mean()), quantile * float(difference.std(ddof=1)) / math.sqrt(n)
