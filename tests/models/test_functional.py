"""Layers with a task axis against torch's layers, task by task."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from metasearch.models import functional


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_linear_equals_a_loop() -> None:
    x, weight, bias = random(3, 4, 5), random(3, 2, 5, seed=1), random(3, 2, seed=2)
    expected = torch.stack([F.linear(x[t], weight[t], bias[t]) for t in range(3)])
    torch.testing.assert_close(functional.linear(x, weight, bias), expected)
    torch.testing.assert_close(functional.linear(x, weight), expected - bias.unsqueeze(1))


@pytest.mark.parametrize("shape", [(3, 6, 4), (3, 5, 3, 2, 4)])
def test_batch_norm_equals_a_loop_on_batch_statistics(shape: tuple[int, ...]) -> None:
    x, weight, bias = random(*shape) * 3 + 1, random(3, 4, seed=1), random(3, 4, seed=2)
    expected = torch.stack(
        [F.batch_norm(x[t].movedim(-1, 1), None, None, weight[t], bias[t], training=True, eps=1e-3) for t in range(3)]
    ).movedim(2, -1)
    torch.testing.assert_close(functional.batch_norm(x, weight, bias, eps=1e-3), expected, rtol=1e-12, atol=1e-12)


def test_batch_norm_without_parameters_gives_mean_zero_and_variance_one() -> None:
    y = functional.batch_norm(random(2, 50, 3) * 7 + 5, eps=0.0)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(y.var(1, correction=0), torch.ones(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(2, 4, 2), (2, 2, 2, 2, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_derivatives_pass_gradcheck_to_second_order(shape: tuple[int, ...], affine: bool) -> None:
    inputs = [random(*shape).requires_grad_()]
    if affine:
        inputs += [random(2, 2, seed=1).requires_grad_(), random(2, 2, seed=2).requires_grad_()]
    assert torch.autograd.gradcheck(functional.batch_norm, inputs)
    assert torch.autograd.gradgradcheck(functional.batch_norm, inputs)


@pytest.mark.parametrize(("kernel", "size"), [(2, (6, 5)), (3, (7, 9)), (2, (2, 2))])
def test_max_pool_equals_torch_and_drops_incomplete_windows(kernel: int, size: tuple[int, int]) -> None:
    x = random(2, 3, *size, 4)
    expected = torch.stack([F.max_pool2d(x[t].movedim(-1, 1), kernel) for t in range(2)]).movedim(2, -1)
    torch.testing.assert_close(functional.max_pool2d(x, kernel), expected, rtol=0, atol=0)


def test_max_pool_gives_ties_to_the_first_pixel_like_torch() -> None:
    x = torch.zeros(1, 1, 4, 4, 1, dtype=torch.float64, requires_grad=True)
    plain = torch.zeros(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    ours = torch.autograd.grad(functional.max_pool2d(x).sum(), x)[0]
    expected = torch.autograd.grad(F.max_pool2d(plain, 2).sum(), plain)[0]
    assert torch.equal(ours[0, ..., 0], expected[0])


def test_max_pool_keeps_nan_wherever_it_stands_in_the_window() -> None:
    for place in range(4):
        x = torch.arange(4.0).reshape(1, 1, 2, 2, 1)
        x.view(-1)[place] = torch.nan
        assert functional.max_pool2d(x).isnan().all()


def test_max_pool_derivatives_pass_gradcheck_to_second_order() -> None:
    x = random(2, 1, 4, 5, 2).requires_grad_()
    assert torch.autograd.gradcheck(functional.max_pool2d, (x,))
    assert torch.autograd.gradgradcheck(lambda x: functional.max_pool2d(x).pow(3), (x,))
