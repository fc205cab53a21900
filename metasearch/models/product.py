"""The matrix product of many tasks, with derivatives that stay in row-major order.

``Y = X W`` has the gradients ``G W^T`` and ``X^T G``: three bilinear maps, each one's derivatives being the other two.
Autograd's own derivatives of ``bmm`` are the same numbers, but from the second order on some come out transposed in
memory, and every operation that follows then reads them against the grain (measured: two times slower in all).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["product"]


def product(x: Tensor, weight: Tensor) -> Tensor:
    """``X W`` of each task.

    Args:
        x: ``[T, n, i]``.
        weight: ``[T, i, o]``.

    Returns:
        ``[T, n, o]``.
    """
    y: Tensor = _Product.apply(x, weight)
    return y


class _Product(torch.autograd.Function):
    """``X, W -> X W``."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return torch.bmm(x, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        need_x, need_weight = ctx.needs_input_grad
        return (_Data.apply(gradient, weight) if need_x else None, _Weight.apply(x, gradient) if need_weight else None)


class _Data(torch.autograd.Function):
    """``G, W -> G W^T``."""

    @staticmethod
    def forward(gradient: Tensor, weight: Tensor) -> Tensor:
        return torch.bmm(gradient, weight.mT)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        first, weight = ctx.saved_tensors
        need_first, need_weight = ctx.needs_input_grad
        return (
            _Product.apply(gradient, weight) if need_first else None,
            _Weight.apply(gradient, first) if need_weight else None,
        )


class _Weight(torch.autograd.Function):
    """``X, G -> X^T G``."""

    @staticmethod
    def forward(x: Tensor, gradient: Tensor) -> Tensor:
        return torch.bmm(x.mT, gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, first = ctx.saved_tensors
        need_x, need_first = ctx.needs_input_grad
        return (_Data.apply(first, gradient) if need_x else None, _Product.apply(x, gradient) if need_first else None)
