"""What the inner loop ends with: networks that have learned their support sets, and how they are asked."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.contracts import Model
from metasearch.core.values import Batch, Tensors

__all__ = ["Adapted", "Mode", "predictions"]

Mode = Literal["together", "alone", "nil"]
"""``together``: all examples of a call are one batch. ``alone``: each is in a batch with the support set. ``nil``:
without the head, by the nearest support example.
"""


class Adapted:
    """Networks that an inner loop ended with; call it on ``x [T, n, ...]`` for outputs ``[T, n, outputs]``.

    Args:
        model: the network.
        theta: its adapted parameters ``[T, ...]``.
        buffers: its buffers ``[T, ...]``.
        support: what they learned from.
        mode: see :func:`predictions`.
    """

    def __init__(self, model: Model, theta: Tensors, buffers: Tensors, support: Batch, mode: Mode = "together") -> None:
        self.model, self.theta, self.buffers, self.support, self.mode = model, theta, buffers, support, mode

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return predictions(self.mode, self.model, self.theta, self.buffers, x, self.support)


def predictions(mode: Mode, model: Model, theta: Tensors, buffers: Tensors, x: Tensor, support: Batch) -> Tensor:
    """Outputs ``[T, n, outputs]`` of networks for ``x [T, n, ...]``.

    Args:
        mode: ``together``; ``alone``, in which a network that normalizes by the batch at hand sees no other example of
            ``x`` (Reptile, arXiv:1803.02999, without transduction); ``nil``, in which a class's output is the largest
            cosine between the features of the example and those of a support example of the class (NIL;
            Raghu et al. 2020, arXiv:1909.09157).
        model: the network; for ``nil`` one that gives its features (``represent``).
        theta: its parameters ``[T, ...]``.
        buffers: its buffers ``[T, ...]``.
        x: what to predict.
        support: the support sets.
    """
    if mode == "together":
        return model(theta, buffers, x)[0]
    if mode == "alone":
        single = [model(theta, buffers, torch.cat([support.x, one], 1))[0][:, -1:] for one in x.split(1, 1)]
        return torch.cat(single, 1)
    network = cast("Any", model)
    known, asked = (F.normalize(network.represent(theta, buffers, one)[0], dim=-1) for one in (support.x, x))
    near = (asked @ known.mT).unsqueeze(-1)
    member = F.one_hot(support.y, theta["head.bias"].shape[-1]).bool().unsqueeze(1)
    return torch.where(member, near, -1.0).amax(2)
