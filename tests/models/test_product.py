"""The bilinear trio of the batched matrix product."""

from __future__ import annotations

import torch

from metasearch.models.product import product


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def test_derivatives_pass_gradcheck_to_second_order() -> None:
    x, weight = random(2, 3, 4, seed=0), random(2, 4, 2, seed=1)
    assert torch.autograd.gradcheck(product, (x, weight))
    assert torch.autograd.gradgradcheck(product, (x, weight))


def test_third_derivatives_equal_those_of_bmm() -> None:
    x, weight = random(2, 3, 4, seed=0), random(2, 4, 2, seed=1)

    def third(y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        value = y.pow(3).sum()
        for _ in range(2):
            value = sum(one.square().sum() for one in torch.autograd.grad(value, (x, weight), create_graph=True))
        return torch.autograd.grad(value, (x, weight))

    for ours, expected in zip(third(product(x, weight)), third(torch.bmm(x, weight)), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=0)


def test_gradients_of_all_orders_are_row_major() -> None:
    x, weight = random(2, 3, 4, seed=0), random(2, 4, 2, seed=1)
    first = torch.autograd.grad(product(x, weight).square().sum(), (x, weight), create_graph=True)
    second = torch.autograd.grad(sum(one.square().sum() for one in first), (x, weight))
    assert all(one.is_contiguous() for one in (*first, *second))
