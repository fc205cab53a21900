"""95 % confidence intervals of means over episodes, and of paired differences over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from metasearch.core.values import Measurement

__all__ = ["Summary", "mean_ci95", "paired_ci95", "summarize"]


@dataclass(frozen=True)
class Summary:
    """Means over episodes and the half-widths of their 95 % intervals."""

    L: float
    L_ci95: float
    metrics: Mapping[str, float]
    metrics_ci95: Mapping[str, float]
    episodes: int


def mean_ci95(values: ArrayLike) -> tuple[float, float]:
    """Mean and half-width 1.96 s / sqrt(n), with the sample deviation s (n - 1); nan half-width for one value.

    >>> mean_ci95([1.0, 1.0, 1.0])
    (1.0, 0.0)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        return float(array.mean()), math.nan
    return float(array.mean()), float(1.96 * array.std(ddof=1) / math.sqrt(array.size))


def paired_ci95(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Mean of a - b over pairs and its half-width by Student's t with n - 1 degrees of freedom; nan for one pair."""
    from scipy import stats

    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    n = difference.size
    if n < 2:
        return float(difference.mean()), math.nan
    quantile = float(stats.t.ppf(0.975, n - 1))
    return float(difference.mean()), quantile * float(difference.std(ddof=1)) / math.sqrt(n)


def summarize(measurements: Sequence[Measurement]) -> Summary:
    """Means and intervals over all episodes of several calls, in call order."""
    loss, loss_ci95 = mean_ci95(np.concatenate([one.query for one in measurements]))
    metrics, widths = {}, {}
    for name in measurements[0].metrics:
        metrics[name], widths[name] = mean_ci95(np.concatenate([one.metrics[name] for one in measurements]))
    return Summary(loss, loss_ci95, metrics, widths, sum(len(one.query) for one in measurements))
