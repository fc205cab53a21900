"""A perceptron on the coordinates of a rule: few units and very many examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["perceptron"]

PIECE_NUMBERS = 1 << 17
"""Numbers of the widest layer that are held at once where no gradient is asked for: they stay in the cache."""

Layer = tuple[Tensor, Tensor]
"""Weights ``[O, I]``, bias ``[O]``."""


def perceptron(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """``W x + b`` of each layer, with a ReLU between two.

    Args:
        x: ``[F, C]``.
        layers: from the input on.

    Returns:
        ``[O, C]`` of the last layer.
    """
    learning = torch.is_grad_enabled() and any(
        one.requires_grad for one in (x, *(w for layer in layers for w in layer))
    )
    return _whole(x, layers) if learning else _in_pieces(x, layers)


def _whole(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    for weight, bias in layers[:-1]:
        x = torch.relu(torch.addmm(bias.unsqueeze(1), weight, x))
    weight, bias = layers[-1]
    return torch.addmm(bias.unsqueeze(1), weight, x)


def _in_pieces(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """Taking fresh memory for each layer takes several times as long as computing it."""
    n, widest = x.shape[1], max(len(bias) for _, bias in layers)
    size = max(min(n, PIECE_NUMBERS // widest) if x.device.type == "cpu" else n, 1)
    found = x.new_empty(len(layers[-1][1]), n)
    rooms = [x.new_empty(len(bias), size) for _, bias in layers[:-1]]
    for start in range(0, n, size):
        stop = min(start + size, n)
        here = x[:, start:stop]
        for (weight, bias), room in zip(layers[:-1], rooms, strict=True):
            here = torch.mm(weight, here, out=room[:, : stop - start]).add_(bias.unsqueeze(1)).relu_()
        weight, bias = layers[-1]
        torch.mm(weight, here, out=found[:, start:stop]).add_(bias.unsqueeze(1))
    return found
