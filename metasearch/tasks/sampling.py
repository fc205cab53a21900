"""Draws without replacement, vectorised over rows of unequal sizes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["below", "distinct"]


def below(words: NDArray[np.uint64], bounds: ArrayLike) -> NDArray[np.int64]:
    """Integers from {0 ... bound - 1}, one a word of 64 random bits; ``bounds`` broadcasts against ``words``.

    The bias of a bound n is below n / 2^53.
    """
    high = np.asarray(bounds, dtype=np.int64)
    unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.minimum((unit * high).astype(np.int64), high - 1)


def distinct(words: NDArray[np.uint64], counts: ArrayLike) -> NDArray[np.int64]:
    """Draws k different integers below a count for each row, in random order; every ordered choice is equally likely.

    Args:
        words: ``[..., 2 k]`` words of 64 random bits, the first k to choose with, the others to order with.
        counts: ``[...]``, each at least k.

    Returns:
        ``[..., k]``. A row depends on its own words and count only.

    Reference: Bentley and Floyd 1987, "A sample of brilliance", algorithm F2: k steps, whatever the counts are.
    """
    k = words.shape[-1] // 2
    rows = words.reshape(-1, 2 * k)
    last = np.broadcast_to(np.asarray(counts, dtype=np.int64), words.shape[:-1]).reshape(-1, 1) - k + np.arange(k)
    candidates = below(rows[:, :k], last + 1)
    chosen = np.empty_like(candidates)
    for i in range(k):
        candidate = candidates[:, i]
        taken = (chosen[:, :i] == candidate[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, last[:, i], candidate)
    order = np.argsort(rows[:, k:], axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1).reshape(*words.shape[:-1], k)
