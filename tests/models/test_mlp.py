"""The multilayer perceptron against its ordinary module, and its initial values."""

from __future__ import annotations

import pytest
import torch

from metasearch.core.config import validate
from metasearch.core.registry import registry
from metasearch.core.values import TaskSpec
from metasearch.models.mlp import MLP


def model_of(shape: tuple[int, ...] = (2, 3), **settings: object) -> MLP:
    return MLP(validate(MLP.Config, {"hidden": (5, 4), **settings}), TaskSpec("regression", shape, 3, 6, 6))


@pytest.mark.parametrize(
    "settings",
    [{}, {"batch_norm": True, "activation": "tanh"}, {"hidden": ()}, {"activation": "gelu"}, {"activation": "sigmoid"}],
)
def test_every_task_gives_what_an_ordinary_module_with_its_parameters_gives(settings: dict[str, object]) -> None:
    model = model_of(**settings)
    each = [{name: value.double() + 0.1 for name, value in model.init(seed)[0].items()} for seed in range(3)]
    x = torch.randn(3, 6, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stacked = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    y, buffers = model(stacked, {}, x)
    assert buffers == {}
    assert y.shape == (3, 6, 3)
    module = model.module().double()
    for task, parameters in enumerate(each):
        module.load_state_dict(parameters)
        torch.testing.assert_close(y[task], module(x[task]), rtol=1e-12, atol=1e-12)


def test_inputs_without_axes_are_single_features() -> None:
    model = model_of(shape=())
    parameters = {name: value.unsqueeze(0) for name, value in model.init(0)[0].items()}
    assert model(parameters, {}, torch.zeros(1, 4))[0].shape == (1, 4, 3)


def test_truncated_normal_weights_stay_within_two_deviations() -> None:
    parameters, _ = model_of(shape=(100,), hidden=(100,), init="truncated_normal").init(0)
    weight = parameters["layers.0.weight"]
    assert float(weight.abs().max()) <= 0.02
    assert float(weight.std()) == pytest.approx(0.0088, rel=0.05)
    assert parameters["layers.0.bias"].eq(0).all()


def test_the_same_seed_gives_the_same_parameters() -> None:
    model = model_of(batch_norm=True)
    first, again = model.init(7)[0], model.init(7)[0]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["norms.0.weight"].eq(1).all()
    assert first["norms.1.bias"].eq(0).all()


def test_mlp_is_found_by_name() -> None:
    assert registry("model").get("mlp") is MLP
