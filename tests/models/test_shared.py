"""Blocks with weights that all tasks share agree with the general layers, which have a kernel for each task."""

import itertools

import numpy as np
import pytest
import torch

from metasearch.core.values import TaskSpec
from metasearch.models import convolution
from metasearch.models.conv4 import Conv4

SPEC = TaskSpec(kind="classification", input_shape=(2, 9, 9), outputs=3, support=3, query=3)


def conv4(**settings):
    return Conv4(Conv4.Config(filters=4, blocks=2, **settings), SPEC)


def values(model, tasks):
    """Parameters and buffers shared by all tasks, and the same with a copy for each; all away from their defaults."""
    generator = torch.Generator().manual_seed(1)
    shared, each = [], []
    for part, learned in zip(model.init(0), (True, False), strict=True):
        drawn = {k: v.double() + 0.3 * torch.rand(v.shape, generator=generator).double() for k, v in part.items()}
        shared.append({k: v.unsqueeze(0).requires_grad_(learned) for k, v in drawn.items()})
        each.append({k: v.expand(tasks, *v.shape[1:]) for k, v in shared[-1].items()})
    return shared, each


CASES = list(itertools.product(["none", "max"], ["batch", "running", "none"], ["both", "bias", "none"], [True, False]))


@pytest.mark.parametrize(("pool", "norm", "affine", "training"), CASES)
def test_values_averages_and_gradients_are_those_of_the_general_layers(pool, norm, affine, training):
    model = conv4(pool=pool, norm=norm, affine=affine, conv_bias=True, head="none")
    shared, each = values(model, 3)
    x = torch.randn(3, 5, 2, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    seeds = np.arange(3) if training else None
    leaves = list(shared[0].values())

    def outcome(parameters, buffers):
        y, after = model(parameters, buffers, x, seeds=seeds)
        gradients = torch.autograd.grad((y * y.detach().cos()).sum(), leaves, create_graph=True, allow_unused=True)
        bent = sum(g.square().sum() for g in gradients if g is not None)
        second = torch.autograd.grad(bent, leaves, allow_unused=True)
        return y, after, gradients, second

    ours, general = outcome(*shared), outcome(*each)
    torch.testing.assert_close(ours[0], general[0])
    for name, value in general[1].items():
        torch.testing.assert_close(ours[1][name].expand_as(value), value, msg=name)
    for first, second in ((ours[2], general[2]), (ours[3], general[3])):
        for leaf, *both in zip(leaves, first, second, strict=True):
            a, b = (torch.zeros_like(leaf) if one is None else one for one in both)
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_bfloat16_is_for_training_and_keeps_parameters_averages_and_outputs():
    full, half = conv4(norm="running", head="none"), conv4(norm="running", head="none", precision="bfloat16")
    parameters, buffers = ({k: v.unsqueeze(0) for k, v in part.items()} for part in full.init(0))
    x = torch.randn(2, 6, 2, 9, 9, generator=torch.Generator().manual_seed(3))
    assert torch.equal(full(parameters, buffers, x)[0], half(parameters, buffers, x)[0])
    leaves = [value.requires_grad_() for value in parameters.values()]
    found = []
    for model in (full, half):
        y, after = model(parameters, buffers, x, seeds=np.arange(2))
        gradients = torch.autograd.grad(y.square().mean(), leaves)
        found.append((y, after, gradients))
        assert y.dtype == torch.float32
        assert {value.dtype for value in (*after.values(), *gradients)} == {torch.float32}
    assert not torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0.05, atol=0.05)
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], value, rtol=0.02, atol=0.02)
    exact, rough = (torch.cat([g.flatten() for g in one[2]]) for one in found)
    assert torch.cosine_similarity(exact, rough, dim=0) > 0.99


@pytest.mark.parametrize("pool", ["none", "max"])
@pytest.mark.parametrize("direct", [False, True])
def test_bfloat16_with_weights_of_each_task_is_near_full_precision_to_the_second_order(pool, direct, monkeypatch):
    if direct:
        monkeypatch.setattr(convolution, "HALF_CACHE_BYTES", 0)
        monkeypatch.setattr(convolution, "DEPTH", 1)
    generator = torch.Generator().manual_seed(4)
    x, y = torch.randn(3, 8, 2, 9, 9, generator=generator), torch.arange(8) % 3
    found = []
    for precision in ("full", "bfloat16"):
        model = conv4(norm="batch", precision=precision, pool=pool)
        phi = {k: v.unsqueeze(0).requires_grad_() for k, v in model.init(0)[0].items()}

        def loss(theta, seeds, model=model):
            logits = model(theta, {}, x, seeds=seeds)[0]
            assert logits.dtype == torch.float32
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.repeat(3), reduction="sum") / 8

        start = {k: v.expand(3, *v.shape[1:]) for k, v in phi.items()}
        slopes = torch.autograd.grad(loss(start, np.arange(3)), list(start.values()), create_graph=True)
        moved = {k: v - 0.4 * slope for (k, v), slope in zip(start.items(), slopes, strict=True)}
        outer = torch.autograd.grad(loss(moved, np.arange(3)), list(phi.values()))
        assert {one.dtype for one in (*slopes, *outer)} == {torch.float32}
        assert slopes[0].shape[0] == 3
        found.append([torch.cat([one.flatten() for one in part]) for part in (slopes, outer)])
    for full, half in zip(*found, strict=True):
        assert not torch.equal(full, half)
        assert torch.cosine_similarity(full, half, dim=0) > 0.9  # roundings switch units and windows


def test_predictions_with_weights_of_each_task_have_full_precision():
    full, half = conv4(norm="batch"), conv4(norm="batch", precision="bfloat16")
    parameters = {k: v.unsqueeze(0).repeat(2, *(1,) * v.dim()) for k, v in full.init(0)[0].items()}
    x = torch.randn(2, 3, 2, 9, 9, generator=torch.Generator().manual_seed(5))
    assert torch.equal(full(parameters, {}, x)[0], half(parameters, {}, x)[0])
    assert not torch.equal(full(parameters, {}, x)[0], half(parameters, {}, x, seeds=np.arange(2))[0])


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("weights", [1, 3])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1)])
def test_a_narrower_type_changes_a_convolution_and_its_derivatives_by_rounding_only(
    direct, weights, stride, padding, monkeypatch
):
    if direct:
        monkeypatch.setattr(convolution, "CACHE_BYTES", 0)
        monkeypatch.setattr(convolution, "DEPTH", 1)
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(3, 2, 6, 7, 2, dtype=torch.float64, generator=generator).requires_grad_()
    kernel = torch.randn(weights, 4, 2, 3, 3, dtype=torch.float64, generator=generator).requires_grad_()

    def derivatives(dtype):
        value = convolution.conv2d(x, kernel, stride=stride, padding=padding, dtype=dtype)
        assert value.dtype == torch.float64
        found = [value]
        for _ in range(3):
            bent = (value / value.detach().norm()).square().sum()
            value, other = torch.autograd.grad(bent, [kernel, x], create_graph=True)
            found += [value, other]
        return found

    for full, narrow in zip(derivatives(None), derivatives(torch.float32), strict=True):
        assert narrow.dtype == torch.float64
        assert not torch.equal(full, narrow)
        torch.testing.assert_close(narrow, full, rtol=1e-5, atol=1e-6 * full.detach().abs().max().item())
