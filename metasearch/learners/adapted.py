"""What the inner loop ends with: networks that have learned their support sets."""

from __future__ import annotations

import torch
from torch import Tensor

from metasearch.core.contracts import Model
from metasearch.core.values import Tensors

__all__ = ["Adapted", "one_by_one"]


class Adapted:
    """Networks that an inner loop ended with; call it on ``x [T, n, ...]`` for outputs ``[T, n, outputs]``.

    Args:
        model: the network.
        theta: its adapted parameters ``[T, ...]``.
        buffers: its buffers ``[T, ...]``.
        beside: support examples ``[T, s, ...]`` that each example is predicted beside, one by one; None predicts all
            examples of a call as one batch.
    """

    def __init__(self, model: Model, theta: Tensors, buffers: Tensors, beside: Tensor | None = None) -> None:
        self.model, self.theta, self.buffers, self.beside = model, theta, buffers, beside

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        if self.beside is not None:
            return one_by_one(self.model, self.theta, self.buffers, x, self.beside)
        return self.model(self.theta, self.buffers, x)[0]


def one_by_one(model: Model, theta: Tensors, buffers: Tensors, x: Tensor, beside: Tensor) -> Tensor:
    """Outputs ``[T, n, outputs]``, each example of ``x [T, n, ...]`` in a batch with ``beside [T, s, ...]`` alone.

    A network that normalizes by the batch at hand then sees no other example of ``x``: it is not transductive.
    """
    outputs = [model(theta, buffers, torch.cat([beside, one], 1))[0][:, -1:] for one in x.split(1, 1)]
    return torch.cat(outputs, 1)
