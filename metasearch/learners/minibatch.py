"""Inner steps on a part of the support set."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from metasearch.core.seeds import Draws
from metasearch.core.values import Batch

__all__ = ["minibatch"]


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
    n = batch.x.shape[1]
    places = np.arange(step * size, (step + 1) * size)
    orders = {epoch: Draws(seeds, f"epoch {epoch}").permutation(n) for epoch in sorted(set((places // n).tolist()))}
    drawn = np.stack([orders[int(place // n)][:, place % n] for place in places], axis=1)
    index = torch.from_numpy(drawn).to(batch.x.device)
    tasks = torch.arange(len(drawn), device=batch.x.device)[:, None]
    return Batch(batch.x[tasks, index], batch.y[tasks, index])
