"""Normalization with written-out derivatives, against those of autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from metasearch.models.normalize import normalize


def plain(x: Tensor, eps: float) -> Tensor:
    over = tuple(range(1, x.dim() - 1))
    centered = x - x.mean(over, keepdim=True)
    return centered * torch.rsqrt(centered.square().mean(over, keepdim=True) + eps)


def derivatives(y: Tensor, x: Tensor, order: int) -> list[Tensor]:
    """A chain of gradients, each of a nonlinear function of the one before."""
    found = []
    for _ in range(order):
        found.append(torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)[0])
        y = found[-1]
    return found


def test_values_and_derivatives_to_third_order_equal_those_of_autograd() -> None:
    x = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(normalize(x, 1e-3), plain(x, 1e-3), rtol=1e-13, atol=1e-13)
    pairs = zip(derivatives(normalize(x, 1e-3), x, 3), derivatives(plain(x, 1e-3), x, 3), strict=True)
    for ours, expected in pairs:
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11 * expected.abs().max().item())


def test_tasks_do_not_mix() -> None:
    x = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(normalize(x, 1e-5)[1:2], normalize(x[1:2], 1e-5), rtol=1e-13, atol=1e-13)
