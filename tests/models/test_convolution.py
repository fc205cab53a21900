"""The batched convolution against torch's, to all orders."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from metasearch.models import convolution
from metasearch.models.convolution import conv2d


@pytest.fixture(params=["product", "direct"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with both ways of computing, whatever the sizes."""
    direct = request.param == "direct"
    monkeypatch.setattr(convolution, "CACHE_BYTES", -1 if direct else 1 << 40)
    monkeypatch.setattr(convolution, "DEPTH", 1)
    return str(request.param)


GEOMETRIES = [(3, 1, 1), (3, 2, 1), (3, 2, 0), (1, 1, 0), (5, 3, 2), (2, 3, 0)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
@pytest.mark.parametrize("size", [(7, 8), (6, 5)])
def test_equals_a_loop_of_torch_convolutions(kernel: int, stride: int, padding: int, size: tuple[int, int]) -> None:
    x, weight, bias = random(3, 4, *size, 2), random(3, 5, 2, kernel, kernel, seed=1), random(3, 5, seed=2)
    expected = torch.stack(
        [F.conv2d(x[t].movedim(-1, 1), weight[t], bias[t], stride=stride, padding=padding) for t in range(3)]
    ).movedim(2, -1)
    torch.testing.assert_close(
        conv2d(x, weight, bias, stride=stride, padding=padding), expected, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_first_and_second_derivatives_pass_gradcheck(kernel: int, stride: int, padding: int) -> None:
    x, weight = random(2, 2, 6, 5, 2).requires_grad_(), random(2, 2, 2, kernel, kernel, seed=1).requires_grad_()

    def function(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return conv2d(x, weight, stride=stride, padding=padding)

    assert torch.autograd.gradcheck(function, (x, weight))
    assert torch.autograd.gradgradcheck(function, (x, weight))


def test_shared_kernels_still_give_each_task_its_own_gradient() -> None:
    x, shared = random(3, 2, 5, 5, 2), random(4, 2, 3, 3, seed=1)
    expanded, copied = shared.expand(3, -1, -1, -1, -1).requires_grad_(), shared.repeat(3, 1, 1, 1, 1).requires_grad_()
    ours = torch.autograd.grad(conv2d(x, expanded, stride=2, padding=1).square().sum(), expanded)[0]
    expected = torch.autograd.grad(conv2d(x, copied, stride=2, padding=1).square().sum(), copied)[0]
    torch.testing.assert_close(ours, expected, rtol=1e-13, atol=1e-13)


def test_kernels_that_do_not_belong_to_the_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected kernels \[2, O, 3, k, k\].*got \[2, 4, 5, 3, 3\]"):
        conv2d(random(2, 1, 6, 6, 3), random(2, 4, 5, 3, 3))


def test_an_image_smaller_than_the_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit 2x2 pixels"):
        conv2d(random(1, 1, 2, 2, 1), random(1, 1, 1, 3, 3))
