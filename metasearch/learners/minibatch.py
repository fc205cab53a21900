"""Inner steps on a part of the support set."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasearch.core.seeds import Draws
from metasearch.core.values import Batch

__all__ = ["minibatch", "minibatches", "taken"]

FEW = 1024
"""Up to so many examples an epoch's order is drawn as a whole; above that, only a step's part of it is computed."""


def minibatch(batch: Batch, size: int, step: int, seeds: NDArray[np.int64]) -> Batch:
    """The examples of an inner step: each task's own, shuffled anew in every epoch, ``size`` at a time.

    A step may begin in one epoch and end in the next, as in the published code of Reptile, so ``size`` may exceed the
    number of examples. It is a function of the step alone: nothing is kept from step to step.

    Args:
        batch: all examples of the tasks ``[T, n, ...]``.
        size: examples a step.
        step: number of the step, from 0.
        seeds: ``[T]``, one a task.
    """
    return taken(batch, _order(batch, step * size, (step + 1) * size, seeds))


def minibatches(batch: Batch, size: int, steps: int, seeds: NDArray[np.int64]) -> Tensor:
    """``[T, steps, size]``: which examples :func:`minibatch` gives to each of the first ``steps`` steps."""
    return _order(batch, 0, steps * size, seeds).unflatten(1, (steps, size))


def taken(batch: Batch, index: Tensor) -> Batch:
    """The examples with the numbers ``index [T, size]``."""
    tasks = torch.arange(len(index), device=batch.x.device)[:, None]
    return Batch(batch.x[tasks, index], batch.y[tasks, index])


def _order(batch: Batch, start: int, stop: int, seeds: NDArray[np.int64]) -> Tensor:
    """``[T, stop - start]``: what stands at these places of all epochs' orders one after the other."""
    n = batch.x.shape[1]
    parts = []
    for epoch in range(start // n, (stop - 1) // n + 1):
        places = np.arange(max(start - epoch * n, 0), min(stop - epoch * n, n))
        draws = Draws(seeds, f"epoch {epoch}")
        parts.append(draws.permutation(n)[:, places] if n <= FEW else draws.shuffled(n, places))
    return torch.from_numpy(np.concatenate(parts, axis=1)).to(batch.x.device)
