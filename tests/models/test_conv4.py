"""conv4: its meta-gradient against independent references, its initial values and its module."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.config import validate
from metasearch.core.errors import ConfigError
from metasearch.core.registry import registry
from metasearch.core.values import TaskSpec, Tensors
from metasearch.models.conv4 import Conv4

TASKS, WAYS, RATE = 3, 4, 0.3
VARIANTS = {
    "strided": {"stride": 2},
    "pooled": {"pool": "max"},
    "flat": {"head": "flatten", "affine": "bias"},
    "plain": {"norm": "none"},
    "maps kept": {"pool": "max", "pooled": 2, "padding": [0, 0, 1, 1]},
    "strides kept": {"pooled": 1, "blocks": 2, "padding": 0},
    "strided and pooled": {"pool": "max", "stride": 2, "blocks": 2, "affine": "none"},
}


def model_of(image: int = 16, **settings: object) -> Conv4:
    config = validate(Conv4.Config, {"filters": 3, **settings})
    return Conv4(config, TaskSpec("classification", (2, image, image), WAYS, WAYS, 2 * WAYS))


def parameters_of(model: Conv4) -> Tensors:
    """Initial values moved off the identity, so that no gradient is zero by symmetry."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: value.double() + 0.3 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in model.init(0)[0].items()
    }


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    support, query = (
        torch.randn(TASKS, n, 2, 16, 16, generator=generator, dtype=torch.float64) for n in (WAYS, 2 * WAYS)
    )
    return support, torch.arange(WAYS).expand(TASKS, -1), query, torch.arange(2 * WAYS).expand(TASKS, -1) % WAYS


def ours(model: Conv4, values: list[Tensor], names: list[str]) -> Tensor:
    """Mean query loss after one inner step, all tasks at once."""
    support, ys, query, yq = data()
    theta = {name: value.expand(TASKS, *value.shape) for name, value in zip(names, values, strict=True)}
    logits = model(theta, {}, support)[0]
    loss = F.cross_entropy(logits.flatten(0, 1), ys.flatten(), reduction="sum") / WAYS
    slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
    theta = {name: value - RATE * slope for (name, value), slope in zip(theta.items(), slopes, strict=True)}
    return F.cross_entropy(model(theta, {}, query)[0].flatten(0, 1), yq.flatten())


def reference_forward(model: Conv4, theta: Tensors, x: Tensor) -> Tensor:
    """One task's forward pass by torch's own layers."""
    for block in range(model.config.blocks):
        x = F.conv2d(
            x,
            theta[f"blocks.{block}.conv.weight"],
            theta.get(f"blocks.{block}.conv.bias"),
            stride=model.strides[block],
            padding=model.paddings[block],
        )
        if model.config.norm == "batch":
            weight, bias = (theta.get(f"blocks.{block}.norm.{name}") for name in ("weight", "bias"))
            ones = torch.ones(
                model.config.filters, dtype=torch.float64
            )  # torch's double backward fails on a bias without a weight
            x = F.batch_norm(x, None, None, ones if weight is None else weight, bias, training=True)
        x = F.relu(x)
        x = F.max_pool2d(x, 2) if model.pools[block] else x
    return F.linear(
        x.mean((2, 3)) if model.config.head == "mean" else x.flatten(1), theta["head.weight"], theta["head.bias"]
    )


def reference(model: Conv4, values: list[Tensor], names: list[str]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for xs, ys, xq, yq in zip(*data(), strict=True):
        slopes = torch.autograd.grad(
            F.cross_entropy(reference_forward(model, dict(zip(names, values, strict=True)), xs), ys),
            values,
            create_graph=True,
        )
        theta = {name: value - RATE * slope for name, value, slope in zip(names, values, slopes, strict=True)}
        total = total + F.cross_entropy(reference_forward(model, theta, xq), yq) / TASKS
    return total


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_meta_gradient_equals_a_plain_loop_of_torch_layers(settings: dict[str, object]) -> None:
    model = model_of(**settings)
    parameters = parameters_of(model)
    names, values = list(parameters), [value.requires_grad_() for value in parameters.values()]
    mine, expected = ours(model, values, names), reference(model, values, names)
    torch.testing.assert_close(mine, expected, rtol=1e-12, atol=0)
    found, wanted = torch.autograd.grad(mine, values), torch.autograd.grad(expected, values)
    for name, left, right in zip(names, found, wanted, strict=True):
        torch.testing.assert_close(
            left,
            right,
            rtol=1e-10,
            atol=1e-10 * float(right.abs().max()),
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_meta_gradient_equals_finite_differences() -> None:
    model = model_of()
    parameters = parameters_of(model)
    names, values = list(parameters), [value.requires_grad_() for value in parameters.values()]
    generator = torch.Generator().manual_seed(9)
    direction = [torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in values]
    slope = sum(
        float((gradient * one).sum())
        for gradient, one in zip(torch.autograd.grad(ours(model, values, names), values), direction, strict=True)
    )
    step = 1e-6

    def at(distance: float) -> float:
        moved = [
            (value + distance * one).detach().requires_grad_() for value, one in zip(values, direction, strict=True)
        ]
        return ours(model, moved, names).item()

    assert slope == pytest.approx((at(step) - at(-step)) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_module_loads_the_parameters_and_gives_the_same_outputs(settings: dict[str, object]) -> None:
    model = model_of(**settings)
    parameters = parameters_of(model)
    module = model.module().double()
    module.load_state_dict(parameters)
    x = data()[0]
    batched = model({name: value.expand(TASKS, *value.shape) for name, value in parameters.items()}, {}, x)[0]
    for mode in (True, False):
        module.train(mode)
        torch.testing.assert_close(torch.stack([module(one) for one in x]), batched, rtol=1e-10, atol=1e-12)


def test_init_is_a_function_of_the_seed_and_leaves_the_global_generator_alone() -> None:
    model = model_of()
    state = torch.get_rng_state()
    first, again, other = model.init(3)[0], model.init(3)[0], model.init(4)[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.conv.weight"], other["blocks.0.conv.weight"])
    assert first["blocks.0.norm.weight"].eq(1).all()
    assert first["blocks.0.norm.bias"].eq(0).all()
    assert first["head.bias"].eq(0).all()


def test_init_spreads_kernels_by_xavier_and_the_head_as_asked() -> None:
    model = model_of(filters=64, head_std=1.0)
    parameters = model.init(0)[0]
    kernel = parameters["blocks.1.conv.weight"]
    bound = (6 / (9 * 128)) ** 0.5
    assert float(kernel.abs().max()) <= bound
    assert float(kernel.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert float(parameters["head.weight"].std()) == pytest.approx(1.0, rel=0.15)


def test_parameter_names_and_shapes_are_those_of_the_settings() -> None:
    shapes = {
        name: tuple(value.shape) for name, value in model_of(affine="bias", blocks=2, head="flatten").init(0)[0].items()
    }
    assert shapes == {
        "blocks.0.conv.weight": (3, 2, 3, 3),
        "blocks.0.norm.bias": (3,),
        "blocks.1.conv.weight": (3, 3, 3, 3),
        "blocks.1.norm.bias": (3,),
        "head.weight": (WAYS, 3 * 16),
        "head.bias": (WAYS,),
    }


def test_conv4_is_found_by_name() -> None:
    assert registry("model").get("conv4") is Conv4


@pytest.mark.parametrize(
    ("settings", "path"), [({"filtres": 3}, "filtres"), ({"stride": 3}, "stride"), ({"blocks": 0}, "blocks")]
)
def test_wrong_settings_are_refused_with_their_path(settings: dict[str, object], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model_of(**settings)
    assert caught.value.path == path


def test_an_image_that_vanishes_is_refused() -> None:
    with pytest.raises(ConfigError, match="vanishes in 4 blocks"):
        model_of(image=8, pool="max")


def test_inputs_that_are_no_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="use mlp"):
        Conv4(Conv4.Config(), TaskSpec("regression", (1,), 1, 5, 5))


def test_nan_is_not_hidden_by_the_activation() -> None:
    model = model_of(norm="none")
    theta = {name: value[None] for name, value in parameters_of(model).items()}
    theta["blocks.0.conv.bias"] = torch.full_like(theta["blocks.0.conv.bias"], torch.nan)
    assert model(theta, {}, data()[0][:1])[0].isnan().all()


@pytest.mark.parametrize("settings", list(VARIANTS.values()), ids=list(VARIANTS))
def test_weights_shared_by_all_tasks_are_weights_of_each(settings: dict[str, object]) -> None:
    model = model_of(**settings)
    values = {name: value.requires_grad_() for name, value in parameters_of(model).items()}
    support = data()[0]
    results = []
    for tasks in (1, TASKS):
        given = {name: value.expand(tasks, *value.shape) for name, value in values.items()}
        y = model(given, {}, support)[0]
        results.append([y, *torch.autograd.grad(y.square().sum(), list(values.values()))])
    for shared, each in zip(*results, strict=True):
        torch.testing.assert_close(shared, each)


def test_no_head_gives_the_features() -> None:
    model = model_of(head="none", blocks=2)
    assert model.outputs == 3 * 4 * 4
    assert not any(name.startswith("head") for name in model.init(0)[0])
    module, values = model.module().double(), parameters_of(model)
    module.load_state_dict(values)
    x = data()[0]
    y = model({name: value[None] for name, value in values.items()}, {}, x)[0]
    torch.testing.assert_close(y[1], module(x[1]))


def test_running_statistics_are_those_of_torch() -> None:
    """Two training batches and an evaluation, as nn.BatchNorm2d in place of ours would have it."""
    model = model_of(norm="running", blocks=1, momentum=0.2)
    values, buffers = parameters_of(model), {name: value.double() for name, value in model.init(0)[1].items()}
    reference = torch.nn.BatchNorm2d(3, momentum=0.2).double()
    reference.load_state_dict(
        {name.rpartition(".")[2]: one for name, one in values.items() if ".norm." in name}, strict=False
    )
    module = model.module().double()
    module.load_state_dict({**values, **buffers})
    shared = {name: value[None] for name, value in values.items()}
    state = {name: value[None] for name, value in buffers.items()}
    x = data()[0]
    convolved = [F.conv2d(one, values["blocks.0.conv.weight"], stride=2, padding=1) for one in x]
    for batch in range(2):
        _, state = model(shared, state, x[batch : batch + 1], seeds=np.zeros(1, dtype=np.int64))
        module.train()(x[batch])
        reference(convolved[batch])
        torch.testing.assert_close(state["blocks.0.norm.running_mean"][0], reference.running_mean)
        torch.testing.assert_close(state["blocks.0.norm.running_var"][0], reference.running_var)
    features = torch.relu(reference.eval()(convolved[2])).mean((2, 3))
    expected = features @ values["head.weight"].T + values["head.bias"]
    y, after = model(shared, state, x[2:])
    torch.testing.assert_close(y[0], expected)
    torch.testing.assert_close(module.eval()(x[2]), expected)
    assert all(torch.equal(after[name], state[name]) for name in state)


def test_maps_and_their_shape_are_known_without_a_head() -> None:
    model = model_of(12, head="none", pool="max", blocks=3, pooled=1, padding=[0, 1, 1])
    assert model.maps == (3, 5, 5)
    assert model.outputs == 75
    assert model_of().maps is None
    with pytest.raises(ConfigError, match=r"model\.padding: needs one number, or 4 of them"):
        model_of(padding=[0, 1])


@pytest.mark.parametrize("norm", ["batch", "running", "none"])
def test_it_says_whether_examples_of_a_batch_depend_on_each_other(norm: str) -> None:
    model = model_of(norm=norm)
    shared = [{name: value[None].double() for name, value in part.items()} for part in model.init(0)]
    x = data()[0]
    apart = torch.cat([model(*shared, one[:, None])[0] for one in x.unbind(1)], 1)
    assert torch.allclose(model(*shared, x)[0], apart) != model.transductive
