"""A convolution of many tasks at once, each with its own kernel, as one batched matrix product.

The image is unfolded into patches and multiplied by the kernels of all tasks in one ``bmm``. Unfolding and folding are
linear and each other's derivative, and so are the three products, so every order of differentiation is again a batched
product between unfolds and folds: no slow convolution gradient appears at any order. Channels are kept last in memory,
which makes a patch a few contiguous runs.

A convolution with ``T`` groups computes the same; its weight gradient and its gradient for maps of a few pixels were
measured at a third to two thirds of the speed of the product (``experiments/benchmarks``).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.processor import AMD
from metasearch.models.axes import joined, merged, split
from metasearch.models.direct import grouped_conv2d
from metasearch.models.product import product

__all__ = ["conv2d"]


CACHE_BYTES = 1 << 17 if AMD else 1 << 20
"""Patches of a task above this size cost more to multiply than a direct convolution.

Half of a second-level cache where the matrix product is as fast as the convolution's kernels. On AMD processors torch's
matrix product was measured at half their speed, so there the convolution wins from a few pixels on.
"""

HALF_CACHE_BYTES = 1 << 20
"""The same for half precision, whose matrix product was measured at three to four times the speed on AMD processors."""

DEPTH = 16
"""Below this number of channels the library's convolutions were measured at a tenth of the product's speed."""

Geometry = tuple[int, int, int]
"""Kernel size, stride, padding."""


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Cross-correlation of every task's images with that task's kernels.

    Args:
        x: ``[T, n, H, W, C]``.
        weight: ``[T, O, C, k, k]``, where an expanded (stride 0) task axis is read once; or ``[1, O, C, k, k]``.
        bias: ``[T, O]``, ``[1, O]`` or None.
        stride: step in pixels, both axes.
        padding: zeros on each side, in pixels.
        dtype: in which to compute; that of ``x`` where not given.

    Returns:
        ``[T, n, H', W', O]`` in the dtype of ``x``, with ``H' = (H + 2 * padding - k) // stride + 1``.

    Raises:
        ValueError: if the kernel is not square, channels differ, or the kernel is larger than the padded image.
    """
    tasks, n, height, width, channels = x.shape
    outputs, kernel = weight.shape[1], weight.shape[-1]
    if weight.shape[0] == 1 < tasks:
        batch = joined(x, 1, tasks * n, height, width, channels)
        y = conv2d(batch, weight, bias, stride=stride, padding=padding, dtype=dtype)
        return split(y, tasks, n, *y.shape[2:])
    if weight.shape[0] != tasks or weight.shape[2] != channels or weight.shape[-2] != kernel:
        raise ValueError(
            f"expected kernels [{tasks}, O, {channels}, k, k] for images {list(x.shape)}, got {list(weight.shape)}"
        )
    geometry = (kernel, stride, padding)
    rows, columns = _size(height, geometry), _size(width, geometry)
    if rows < 1 or columns < 1:
        raise ValueError(
            f"a {kernel}x{kernel} kernel does not fit {height}x{width} pixels padded by {padding}; "
            f"use fewer blocks or larger images"
        )
    factor = dtype or x.dtype
    patch_bytes = n * rows * columns * kernel * kernel * channels * factor.itemsize
    if patch_bytes > (HALF_CACHE_BYTES if factor.itemsize == 2 else CACHE_BYTES) and channels >= DEPTH:
        y = grouped_conv2d(x.to(factor), weight.to(factor), stride, padding).to(x.dtype)
        return y if bias is None else y + bias[:, None, None, None]
    y = product(_Unfold.apply(x.to(factor), geometry), _Pack.apply(weight, factor)).to(x.dtype)
    if bias is not None:
        y = y + bias.unsqueeze(1)
    return split(y, tasks, n, rows, columns, outputs)


def _size(pixels: int, geometry: Geometry) -> int:
    kernel, stride, padding = geometry
    return (pixels + 2 * padding - kernel) // stride + 1


def _unfold(x: Tensor, geometry: Geometry) -> Tensor:
    """Patches ``[T, n * H' * W', k * k * C]`` of ``x [T, n, H, W, C]``."""
    kernel, stride, padding = geometry
    padded = F.pad(x, (0, 0, padding, padding, padding, padding)) if padding else x
    windows = padded.unfold(2, kernel, stride).unfold(3, kernel, stride)  # [T, n, H', W', C, k, k], a view
    tasks, n, rows, columns, channels = windows.shape[:5]
    return merged(windows.permute(0, 1, 2, 3, 5, 6, 4), tasks, n * rows * columns, kernel * kernel * channels)


def _fold(patches: Tensor, shape: tuple[int, ...], geometry: Geometry) -> Tensor:
    """The transpose of :func:`_unfold`: ``x [T, n, H, W, C]``, each pixel the sum of its places in the patches.

    Pixel ``s q + a`` lies at place ``a + s d`` of the patch at ``q - d``, for each ``d``. With the places written as
    ``(d, a)``, the image is a sum of shifted blocks, so it is gathered in one pass and nothing is scattered.
    """
    kernel, stride, padding = geometry
    tasks, n, height, width, channels = shape
    rows, columns = _size(height, geometry), _size(width, geometry)
    reach = -(-kernel // stride)
    tall = max(-(-(padding + height) // stride), rows + reach - 1)
    wide = max(-(-(padding + width) // stride), columns + reach - 1)
    places = patches.reshape(tasks, n, rows, columns, kernel, kernel, channels)
    places = F.pad(places, (0, 0, 0, reach * stride - kernel, 0, reach * stride - kernel))
    places = places.reshape(tasks, n, rows, columns, reach, stride, reach, stride, channels)
    shifted = [
        F.pad(places[:, :, :, :, i, :, j], (0,) * 6 + (j, wide - columns - j, i, tall - rows - i))
        for i in range(reach)
        for j in range(reach)
    ]
    blocks = functools.reduce(torch.add, shifted)  # [T, n, tall, wide, s, s, C]
    image = merged(blocks.permute(0, 1, 2, 4, 3, 5, 6), tasks, n, tall * stride, wide * stride, channels)
    return image[:, :, padding : padding + height, padding : padding + width]


class _Unfold(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, geometry: Geometry) -> Tensor:
        return _unfold(x, geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.shape, ctx.geometry = tuple(inputs[0].shape), inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Fold.apply(gradient, ctx.shape, ctx.geometry), None


class _Fold(torch.autograd.Function):
    @staticmethod
    def forward(patches: Tensor, shape: tuple[int, ...], geometry: Geometry) -> Tensor:
        return _fold(patches, shape, geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.geometry = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Unfold.apply(gradient, ctx.geometry), None, None


class _Pack(torch.autograd.Function):
    """Kernels ``[T, O, C, k, k]`` as matrices ``[T, k * k * C, O]`` of a dtype; those that all tasks share are
    rearranged once.
    """

    @staticmethod
    def forward(weight: Tensor, dtype: torch.dtype) -> Tensor:
        distinct = (weight[:1] if weight.stride(0) == 0 else weight).to(dtype)
        tasks, outputs, channels, kernel, _ = weight.shape
        matrix = merged(distinct.permute(0, 3, 4, 2, 1), distinct.shape[0], kernel * kernel * channels, outputs)
        return matrix.expand(tasks, -1, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.shape, ctx.dtype = tuple(inputs[0].shape), inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Unpack.apply(gradient, ctx.shape, ctx.dtype), None


class _Unpack(torch.autograd.Function):
    """The inverse of :class:`_Pack`, and its transpose."""

    @staticmethod
    def forward(matrix: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        tasks, outputs, channels, kernel, _ = shape
        return matrix.to(dtype).reshape(tasks, kernel, kernel, channels, outputs).permute(0, 4, 3, 1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Pack.apply(gradient, ctx.dtype), None, None
