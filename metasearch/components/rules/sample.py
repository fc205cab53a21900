"""The gradient of phi through a sample of the coordinates.

Where an update rule takes gradients as constants, the gradient of phi is a sum over coordinates: each one's moves,
times what the objective makes of them. A random sample of the coordinates, each counted for as many as it stands for,
gives that sum without bias, and only the sample needs a graph. (A sum over a sample, weighted by the inverse of the
chance to be in it, is the estimator of Horvitz and Thompson 1952.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasearch.core import seeds as seeding

__all__ = ["Sample"]


@dataclass(frozen=True)
class Sample:
    """Some coordinates of each tensor.

    Args:
        places: which ones, ``[T, m]``, numbered along all tensors side by side; those of a tensor stand together.
        counts: how many coordinates each of them stands for, ``[T, m]``.
        sizes: how many of each tensor.
    """

    places: Tensor
    counts: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def draw(cls, seeds: NDArray[np.int64], sizes: tuple[int, ...], most: int, like: Tensor) -> Sample:
        """At most ``most`` of each tensor's coordinates, all of a tensor that has no more; ``seeds`` ``[T]`` are of
        the tasks, ``like`` has the dtype and the device.
        """
        taken = tuple(min(size, most) for size in sizes)
        starts = np.cumsum([0, *sizes[:-1]])
        places = [
            start + seeding.Draws(seeding.derive_many(index, "sample", seeds)).choose(size, count)
            if count < size
            else np.broadcast_to(np.arange(start, start + size), (len(seeds), size))
            for index, (start, size, count) in enumerate(zip(starts, sizes, taken, strict=True))
        ]
        counts = np.concatenate(
            [np.full(count, size / count) for size, count in zip(sizes, taken, strict=True) if size]
        )
        return cls(
            torch.from_numpy(np.concatenate(places, 1)).to(like.device),
            torch.from_numpy(counts).to(like).expand(len(seeds), -1),
            taken,
        )

    def of(self, x: Tensor) -> Tensor:
        """The sample's part of ``x`` ``[T, n, ...]``."""
        places = self.places.reshape(*self.places.shape, *(1,) * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
        return x.gather(1, places)

    def attached(self, moved: Tensor, part: Tensor) -> Tensor:
        """``moved`` ``[T, n]`` with the derivative of ``part`` ``[T, m]``, each counted for those it stands for."""
        return moved.scatter_add(1, self.places, (part - part.detach()) * self.counts)
