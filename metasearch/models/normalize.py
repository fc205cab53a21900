"""Normalization by the statistics of a batch, with both derivatives written as projections.

With ``r = 1 / sqrt(var + eps)`` and ``z = (x - mean) r``, the derivative of ``z`` is ``r P``, where

    P(g) = g - mean(g) - z mean(g z)

is linear and self-adjoint. Its own derivatives are written out too, so that a second-order gradient passes over the
activations a few times only; what autograd derives from the formula of ``z`` passes over them about twice as often.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["normalize"]


def normalize(x: Tensor, eps: float) -> Tensor:
    """``(x - mean) / sqrt(var + eps)`` over all axes between the first and the last, with the biased variance.

    Args:
        x: ``[T, ..., C]``.
        eps: added to the variance.

    Returns:
        The shape of ``x``.
    """
    z: Tensor = _Normalize.apply(x, eps)[0]
    return z


def _mean(x: Tensor) -> Tensor:
    return x.mean(tuple(range(1, x.dim() - 1)), keepdim=True)


def _count(x: Tensor) -> int:
    return math.prod(x.shape[1:-1])


class _Normalize(torch.autograd.Function):
    """``x -> z [T, ..., C], r [T, 1 ..., C]``."""

    @staticmethod
    def forward(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        centered = x - _mean(x)
        r = torch.rsqrt(_mean(centered * centered) + eps)
        return centered * r, r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, gz: Tensor | None, gr: Tensor | None) -> tuple[Tensor | None, None]:
        z, r = ctx.saved_tensors
        gradient = None if gz is None else _Project.apply(gz, z, r)
        if gr is not None:  # dr = -r^2 mean(z dx)
            through_r = z * (gr * r * r * (-1.0 / _count(z)))
            gradient = through_r if gradient is None else gradient + through_r
        return gradient, None


class _Project(torch.autograd.Function):
    """``g, z, r -> r P(g)``."""

    @staticmethod
    def forward(g: Tensor, z: Tensor, r: Tensor) -> Tensor:
        return r * (g - _mean(g) - z * _mean(g * z))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        g, z, r = ctx.saved_tensors
        along_g, along_u = _mean(g * z), _mean(u * z)
        for_z = (u * along_g + g * along_u) * -r
        for_r = (_mean(u * g) - _mean(u) * _mean(g) - along_u * along_g) * _count(z)
        return _Project.apply(u, z, r), for_z, for_r
