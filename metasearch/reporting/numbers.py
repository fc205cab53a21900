"""Numbers as people read them: intervals, units, durations; and smoothing and thinning of long series."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from metasearch.reporting.history import Array

__all__ = ["duration", "figure", "heading", "is_share", "plain", "running_mean", "thin"]

NONE = "–"
"""Stands where there is no number."""


def is_share(metric: str) -> bool:
    """Whether a metric is a share of 1 that people read in percent."""
    return "accuracy" in metric


def heading(metric: str) -> str:
    """A metric's name with its unit.

    >>> heading("accuracy"), heading("L")
    ('accuracy (%)', 'L(φ)')
    """
    return "L(φ)" if metric == "L" else f"{metric} (%)" if is_share(metric) else metric


def figure(metric: str, value: float, ci95: float = math.nan, *, signed: bool = False) -> str:
    """A figure and its 95 % half-width, both with as many decimals as the half-width has two digits.

    >>> figure("accuracy", 0.98712, 0.0021), figure("L", 0.0412345), figure("parameters", 12800.0)
    ('98.71 ± 0.21', '0.04123', '12,800')
    """
    if math.isnan(value):
        return "nan"
    text = _figure(metric, value, ci95, "+" if signed else "")
    return text.replace("-", "−", 1) if signed and text.startswith("-") else text


def _figure(metric: str, value: float, ci95: float, sign: str) -> str:
    scale = 100.0 if is_share(metric) else 1.0
    value, ci95 = scale * value, scale * ci95
    if not math.isfinite(ci95) or not math.isfinite(value):
        if scale == 1 and 1e4 <= abs(value) < 1e15 and float(value).is_integer():  # a count
            return f"{value:{sign},.0f}"
        return f"{value:{sign}.2f}" if scale > 1 and math.isfinite(value) else f"{value:{sign}#.4g}".rstrip(".")
    if max(abs(value), ci95) >= 1e6 or 0 < ci95 < 1e-6:
        return f"{value:{sign}.4g} ± {ci95:.2g}"
    decimals = 2 if ci95 == 0 else min(max(1 - math.floor(math.log10(ci95)), 0), 7)
    return f"{value:{sign}.{decimals}f} ± {ci95:.{decimals}f}"


def plain(value: float | int | None) -> str:
    """A count or a single number, with thousands separated.

    >>> plain(111261), plain(0.00512345), plain(None)
    ('111,261', '0.005123', '–')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time span in the two largest units.

    >>> duration(5025), duration(12.34), duration(90)
    ('1 h 23 min', '12.3 s', '1 min 30 s')
    """
    if not math.isfinite(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def running_mean(values: Array, window: int) -> Array:
    """Centred mean of the finite values within a window that shrinks at the ends; nan where there are none.

    >>> running_mean(np.array([1.0, 3.0, np.nan, 5.0]), 3).tolist()
    [2.0, 2.0, 4.0, 5.0]
    """
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    start = np.clip(np.arange(len(values)) - window // 2, 0, None)
    stop = np.clip(np.arange(len(values)) + (window + 1) // 2, None, len(values))
    n = counts[stop] - counts[start]
    return np.where(n > 0, (sums[stop] - sums[start]) / np.maximum(n, 1), np.nan)


def thin(values: Array, limit: int) -> NDArray[np.int64]:
    """At most about ``limit`` places of a series that keep its shape: ends, and each bucket's lowest and highest.

    >>> thin(np.arange(5.0), 10).tolist()
    [0, 1, 2, 3, 4]
    """
    n = len(values)
    if n <= limit:
        return np.arange(n)
    kept = {0, n - 1}
    for bucket in np.array_split(np.arange(n), max(limit // 2, 1)):
        finite = bucket[np.isfinite(values[bucket])]
        # A bucket without a number keeps its nan, so that a gap stays a gap.
        kept |= {int(bucket[0])} if not len(finite) else set(finite[[values[finite].argmin(), values[finite].argmax()]])
    return np.array(sorted(kept), dtype=np.int64)
