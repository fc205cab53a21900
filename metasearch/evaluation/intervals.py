"""Means over episodes, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metasearch.core.statistics import mean_ci95
from metasearch.core.values import Measurement

__all__ = ["Summary", "summarize"]


@dataclass(frozen=True)
class Summary:
    """Means over episodes and the half-widths of their 95 % intervals."""

    L: float
    L_ci95: float
    metrics: Mapping[str, float]
    metrics_ci95: Mapping[str, float]
    episodes: int


def summarize(measurements: Sequence[Measurement]) -> Summary:
    """Means and intervals over all episodes of several calls, in call order."""
    loss, loss_ci95 = mean_ci95(np.concatenate([one.query for one in measurements]))
    metrics, widths = {}, {}
    for name in measurements[0].metrics:
        metrics[name], widths[name] = mean_ci95(np.concatenate([one.metrics[name] for one in measurements]))
    return Summary(loss, loss_ci95, metrics, widths, sum(len(one.query) for one in measurements))
