"""Layers of many tasks at once: every parameter and every activation has a leading task axis ``T``.

Channels are the last axis of activations, as they are in memory: a pixel's channels are then contiguous, and matrix
products, statistics and patches all read with the grain. All layers differentiate to any order and are traceable, so a
finished meta-gradient can be compiled as one graph (:mod:`metasearch.estimators.compile`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from metasearch.models.convolution import conv2d
from metasearch.models.normalize import normalize
from metasearch.models.product import product

__all__ = ["batch_norm", "conv2d", "linear", "max_pool2d"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` of each task.

    Args:
        x: ``[T, n, i]``.
        weight: ``[T, o, i]``.
        bias: ``[T, o]`` or None.

    Returns:
        ``[T, n, o]``.
    """
    y = product(x, weight.mT)
    return y if bias is None else y + bias.unsqueeze(1)


def batch_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5) -> Tensor:
    """Normalizes every channel of every task by the mean and the biased variance of the batch at hand.

    There are no running statistics: training, adaptation and test all use their own batch.

    Args:
        x: ``[T, n, ..., C]``, for example ``[T, n, H, W, C]``.
        weight: ``[T, C]`` scale, or None for 1.
        bias: ``[T, C]`` shift, or None for 0.
        eps: added to the variance, in squared units of ``x``.

    Returns:
        The shape of ``x``.

    Reference: Ioffe and Szegedy 2015, arXiv 1502.03167, Algorithm 1.
    """
    y = normalize(x, eps)
    shape = (x.shape[0], *(1,) * (x.dim() - 2), x.shape[-1])
    if weight is not None:
        y = y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def max_pool2d(x: Tensor, kernel: int = 2) -> Tensor:
    """The maximum of each ``kernel`` x ``kernel`` window; windows do not overlap, an incomplete last one is dropped.

    Among equal values the first in row order takes the gradient, as in ``torch.nn.functional.max_pool2d``; nan wins. A
    chain of comparisons is used since its derivatives of all orders are selections, which fuse.

    Args:
        x: ``[T, n, H, W, C]``.
        kernel: side of a window in pixels, and the stride.

    Returns:
        ``[T, n, H // kernel, W // kernel, C]``.
    """
    height, width = (x.shape[2] // kernel) * kernel, (x.shape[3] // kernel) * kernel
    best: Tensor | None = None
    for i in range(kernel):
        for j in range(kernel):
            candidate = x[:, :, i:height:kernel, j:width:kernel]
            best = candidate if best is None else torch.where((best >= candidate) | best.isnan(), best, candidate)
    assert best is not None
    return best
