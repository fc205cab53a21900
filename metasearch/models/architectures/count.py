"""The size of a network: its parameters, and the multiplications of one example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Size", "count"]


@dataclass(frozen=True)
class Size:
    """What a network costs.

    Args:
        parameters: numbers that are trained.
        multiply_adds: of its convolutions and linear layers for one example, a multiplication and an addition counted
            as one (what papers on architectures call FLOPs); norms, pooling and activations are left out.
    """

    parameters: int
    multiply_adds: int


def count(module: nn.Module, input_shape: Sequence[int]) -> Size:
    """The size of a module for one example of a shape, measured by running it once on zeros.

    A layer that runs several times counts as often; a parameter that is not used counts.

    >>> count(nn.Linear(3, 2), (3,))
    Size(parameters=8, multiply_adds=6)
    """
    total = 0

    def conv(layer: nn.Conv2d, given: Any, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * layer.weight[0].numel()

    def linear(layer: nn.Linear, given: Any, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * layer.in_features

    hooks = [
        layer.register_forward_hook(conv if isinstance(layer, nn.Conv2d) else linear)
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    mode = module.training
    like = next(iter(module.parameters()), torch.zeros(()))
    try:
        with torch.no_grad():
            module.eval()(like.new_zeros(1, *input_shape))
    finally:
        module.train(mode)
        for hook in hooks:
            hook.remove()
    return Size(sum(one.numel() for one in module.parameters()), total)
