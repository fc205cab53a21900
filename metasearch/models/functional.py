"""Layers of many tasks at once: every parameter and every activation has a leading task axis ``T``.

A parameter whose task axis has length 1 is shared by all tasks, which are then computed as one long batch.

Channels are the last axis of activations, as they are in memory: a pixel's channels are then contiguous, and matrix
products, statistics and patches all read with the grain. All layers differentiate to any order and are traceable, so a
finished meta-gradient can be compiled as one graph (:mod:`metasearch.estimators.compile`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from metasearch.models.axes import joined, split
from metasearch.models.convolution import conv2d
from metasearch.models.normalize import normalize
from metasearch.models.product import product

__all__ = ["batch_norm", "conv2d", "linear", "max_pool2d", "running_statistics"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` of each task.

    Args:
        x: ``[T, n, i]``.
        weight: ``[T, o, i]`` or ``[1, o, i]``.
        bias: ``[T, o]``, ``[1, o]`` or None.

    Returns:
        ``[T, n, o]``.
    """
    tasks, n, inputs = x.shape
    if weight.shape[0] == 1 < tasks:
        y = split(product(joined(x, 1, tasks * n, inputs), weight.mT), tasks, n, weight.shape[1])
    else:
        y = product(x, weight.mT)
    return y if bias is None else y + bias.unsqueeze(1)


def batch_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    statistics: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalizes every channel of every task.

    Args:
        x: ``[T, n, ..., C]``, for example ``[T, n, H, W, C]``.
        weight: ``[T, C]`` or ``[1, C]`` scale, or None for 1.
        bias: ``[T, C]`` or ``[1, C]`` shift, or None for 0.
        statistics: mean and variance to normalize by, ``[T, C]`` or ``[1, C]``; None takes the mean and the biased
            variance of the batch at hand.
        eps: added to the variance, in squared units of ``x``.

    Returns:
        The shape of ``x``.

    Reference: Ioffe and Szegedy 2015, arXiv 1502.03167, Algorithm 1.
    """
    shape = (-1, *(1,) * (x.dim() - 2), x.shape[-1])
    if statistics is None:
        y = normalize(x, eps)
    else:
        mean, variance = statistics
        y = (x - mean.reshape(shape)) * torch.rsqrt(variance.reshape(shape) + eps)
    if weight is not None:
        y = y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def running_statistics(x: Tensor, mean: Tensor, variance: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
    """The moving averages of mean and unbiased variance after a batch, as ``torch.nn.BatchNorm2d`` keeps them.

    Args:
        x: what is normalized, ``[T, n, ..., C]``; no gradient flows through it.
        mean: average so far, ``[T, C]`` or ``[1, C]``.
        variance: likewise.
        momentum: weight of this batch.

    Returns:
        The two averages, ``[T, C]``.
    """
    x = x.detach()
    over = tuple(range(1, x.dim() - 1))
    found = torch.var_mean(x, over, correction=1)
    return mean + momentum * (found[1] - mean), variance + momentum * (found[0] - variance)


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
