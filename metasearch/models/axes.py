"""Splitting and merging axes, in the way that compiles well.

A reshape that merges axes of a value which a compiler has yet to compute makes it compute that value in the new shape,
with divisions and remainders to recover the old indexes: slow to compile and slow to run. Here the value is computed in
its own shape, and then seen in the new one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["joined", "merged", "split"]


def split(x: Tensor, *shape: int) -> Tensor:
    """``x`` in a shape that cuts axes into several; its gradient is merged back by :func:`merged`."""
    y: Tensor = _Split.apply(x, shape)
    return y


def joined(x: Tensor, *shape: int) -> Tensor:
    """``x`` in a shape that merges neighbouring axes; its gradient is cut again by :func:`split`."""
    y: Tensor = _Merge.apply(x, shape)
    return y


def merged(x: Tensor, *shape: int) -> Tensor:
    """``x`` in a shape whose axes are each one axis, or several neighbouring ones, of ``x``.

    For use inside an ``autograd.Function``: autograd would go through ``as_strided``, whose derivative is slow.
    """
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return x.contiguous().as_strided(shape, strides)


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, shape: tuple[int, ...]) -> Tensor:
        return x.reshape(shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.shape = tuple(inputs[0].shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Merge.apply(gradient, ctx.shape), None


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, shape: tuple[int, ...]) -> Tensor:
        return merged(x, *shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.shape = tuple(inputs[0].shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Split.apply(gradient, ctx.shape), None
