"""Convolutional blocks whose weights all tasks share: the library's own kernels on one long batch.

There is nothing to group here, so the kernels that everyone uses are the fastest there are, eager and channels last:
about 1.5 times as fast as the general layers compiled, and they can compute in bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

EPSILON, CUDNN = 1e-5, True
"""What is added to variances; whether a GPU's own library may do it."""

__all__ = ["applies", "batch_norm", "compilable", "convolution", "image"]


def applies(x: Tensor, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> bool:
    """Whether all tasks share all values and nothing is being recorded: a compiler wants the general layers."""
    alone = all(value.shape[0] == 1 for value in (*parameters.values(), *buffers.values()))
    return alone and not isinstance(x, FakeTensor)


def compilable(model: Any) -> bool:
    """Whether a learner that shares a network between all tasks gains from being compiled."""
    return bool(getattr(model, "traceable", False)) and not getattr(model, "shared_kernels", False)


def image(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``[T, n, C, H, W]`` as ``[T * n, C, H, W]``, channels last."""
    return x.flatten(0, 1).to(dtype=dtype, memory_format=torch.channels_last)


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Cross-correlation of ``[m, C, H, W]`` with ``weight [1, O, C, k, k]``, in the precision of ``x``."""
    kernel = weight[0].to(dtype=x.dtype, memory_format=torch.channels_last)
    return F.conv2d(x, kernel, None if bias is None else bias[0].to(x.dtype), stride, padding)


def batch_norm(
    x: Tensor,
    tasks: int,
    affine: tuple[Tensor | None, Tensor | None],
    kept: tuple[Tensor, Tensor] | None,
    *,
    training: bool,
    momentum: float,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Normalizes each task's examples by themselves, or by moving averages in evaluation.

    Sums are taken in float32 or better.

    Args:
        x: ``[T * n, C, H, W]``.
        tasks: ``T``.
        affine: scale and shift, ``[1, C]`` or None.
        kept: the averages of mean and variance, ``[1, C]``, if there are any.
        training: whether statistics are those of the batch although there are averages.
        momentum: weight of this batch in the averages.

    Returns:
        The shape of ``x``, and each task's next averages ``[T, C]`` in training.
    """
    scale, shift = (None if value is None else value[0] for value in affine)
    if scale is None and shift is not None:  # the library has no second derivative of a shift alone
        plain, found = batch_norm(x, tasks, (None, None), kept, training=training, momentum=momentum)
        return plain + shift.to(x.dtype)[:, None, None], found
    if kept is not None and not training:
        return torch.batch_norm(x, scale, shift, kept[0][0], kept[1][0], False, momentum, EPSILON, CUDNN), None
    found = None if kept is None else (kept[0].detach().repeat(tasks, 1), kept[1].detach().repeat(tasks, 1))
    parts = [
        torch.batch_norm(
            part,
            scale,
            shift,
            None if found is None else found[0][task],
            None if found is None else found[1][task],
            True,
            momentum,
            EPSILON,
            CUDNN,
        )
        for task, part in enumerate(x.chunk(tasks))
    ]
    return parts[0] if tasks == 1 else torch.cat(parts), found
