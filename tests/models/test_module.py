"""Any nn.Module as a model: batch norm, dropout, tied weights and buffers."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.registry import registry
from metasearch.core.values import TaskSpec, Tensors
from metasearch.models.module import ModuleModel

SPEC = TaskSpec("classification", (4,), 3, 5, 5)


class Net(nn.Module):
    """Batch norm, dropout, a weight used twice and a buffer that counts calls."""

    calls: Tensor
    seen: Tensor

    def __init__(self, rate: float = 0.4) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.dropout = nn.Dropout(rate)
        self.head = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen = self.seen + x.detach().sum(0)
        return self.head(self.dropout(torch.tanh(self.second(torch.tanh(self.norm(self.first(x)))))))


def model_of(factory: object = Net, **settings: object) -> ModuleModel:
    return ModuleModel(ModuleModel.Config(factory=factory, **settings), SPEC)


def stacked(model: ModuleModel, tasks: int = 3) -> tuple[Tensors, Tensors]:
    each = [model.init(seed) for seed in range(tasks)]
    parameters, buffers = (
        {name: torch.stack([one[part][name] for one in each]) for name in each[0][part]} for part in (0, 1)
    )
    double = {name: value.double() for name, value in parameters.items()}
    return double, {name: value.double() for name, value in buffers.items()}


def examples(tasks: int = 3) -> Tensor:
    return torch.randn(tasks, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_hand(theta: Tensors, task: int, x: Tensor) -> Tensor:
    """The network without dropout, by torch's functions."""
    one = {name: value[task] for name, value in theta.items()}
    x = F.batch_norm(
        F.linear(x, one["first.weight"], one["first.bias"]),
        None,
        None,
        one["norm.weight"],
        one["norm.bias"],
        training=True,
    )
    x = torch.tanh(F.linear(torch.tanh(x), one["first.weight"], one["second.bias"]))
    return F.linear(x, one["head.weight"], one["head.bias"])


def test_a_tied_weight_is_one_entry_and_batch_norm_has_no_running_statistics() -> None:
    parameters, buffers = model_of().init(0)
    assert set(parameters) == {
        "first.weight",
        "first.bias",
        "norm.weight",
        "norm.bias",
        "second.bias",
        "head.weight",
        "head.bias",
    }
    assert set(buffers) == {"calls", "seen"}


@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_outputs_equal_the_network_written_by_hand(batching: str) -> None:
    model = model_of(arguments={"rate": 0.0}, batching=batching)
    parameters, buffers = stacked(model)
    y, _ = model(parameters, buffers, x := examples())
    torch.testing.assert_close(
        y, torch.stack([by_hand(parameters, task, x[task]) for task in range(3)]), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_buffers_come_back_updated_and_the_given_ones_stay(batching: str) -> None:
    model = model_of(arguments={"rate": 0.0}, batching=batching)
    parameters, buffers = stacked(model)
    x = examples()
    _, after = model(parameters, buffers, x)
    _, later = model(parameters, after, x)
    assert torch.equal(buffers["calls"], torch.zeros(3, dtype=torch.float64))
    assert torch.equal(later["calls"], torch.full((3,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(after["seen"], x.sum(1))


def test_dropout_draws_from_each_tasks_seed_alone() -> None:
    model = model_of()
    parameters, buffers = stacked(model)
    x = examples()
    state = torch.get_rng_state()
    y, _ = model(parameters, buffers, x, seeds=np.array([5, 6, 7]))
    assert torch.equal(torch.get_rng_state(), state)
    alone, _ = model(
        {n: v[1:2] for n, v in parameters.items()}, {n: v[1:2] for n, v in buffers.items()}, x[1:2], seeds=np.array([6])
    )
    other, _ = model(parameters, buffers, x, seeds=np.array([5, 8, 7]))
    assert torch.equal(alone[0], y[1])
    assert torch.equal(other[0], y[0])
    assert not torch.equal(other[1], y[1])


def test_dropout_is_off_without_seeds() -> None:
    model = model_of()
    parameters, buffers = stacked(model)
    y, _ = model(parameters, buffers, x := examples())
    torch.testing.assert_close(
        y, torch.stack([by_hand(parameters, task, x[task]) for task in range(3)]), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_second_order_gradients_equal_those_of_a_loop_written_by_hand(batching: str) -> None:
    model = model_of(arguments={"rate": 0.0}, batching=batching)
    parameters, buffers = stacked(model)
    leaves = {name: value.requires_grad_() for name, value in parameters.items()}
    x = examples()

    def curved(y: Tensor) -> list[Tensor]:
        first = torch.autograd.grad(y.square().sum(), list(leaves.values()), create_graph=True)
        return list(torch.autograd.grad(sum(one.square().sum() for one in first), list(leaves.values())))

    ours = curved(model(leaves, buffers, x)[0])
    expected = curved(torch.stack([by_hand(leaves, task, x[task]) for task in range(3)]))
    scale = max(float(one.abs().max()) for one in expected)
    for left, right in zip(ours, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10 * scale)


def test_gradients_with_dropout_pass_gradcheck_to_second_order() -> None:
    model = model_of()
    parameters, buffers = stacked(model, tasks=2)
    names = list(parameters)
    x, seeds = examples(2), np.array([1, 2])

    def function(*values: Tensor) -> Tensor:
        return model(dict(zip(names, values, strict=True)), buffers, x, seeds=seeds)[0]

    values = [value.requires_grad_() for value in parameters.values()]
    assert torch.autograd.gradcheck(function, values)
    assert torch.autograd.gradgradcheck(function, values)


def test_init_depends_on_the_seed_alone() -> None:
    model = model_of()
    torch.manual_seed(1)
    first = model.init(3)[0]
    torch.manual_seed(2)
    again, other = model.init(3)[0], model.init(4)[0]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_a_finished_module_starts_from_its_own_values() -> None:
    net = Net()
    model = model_of(net)
    assert torch.equal(model.init(0)[0]["head.weight"], net.head.weight)
    assert isinstance(net.norm, nn.BatchNorm1d)


def test_module_takes_back_learned_parameters() -> None:
    model = model_of()
    parameters, buffers = model.init(11)
    module = model.module()
    missing, unexpected = module.load_state_dict({**parameters, **buffers}, strict=False)
    assert unexpected == []
    assert missing == ["second.weight"]
    module.eval()
    x = examples()[0].float()
    expected, _ = model({n: v[None] for n, v in parameters.items()}, {n: v[None] for n, v in buffers.items()}, x[None])
    torch.testing.assert_close(module(x), expected[0])


def test_exchanging_batch_norm_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="metasearch"):
        model = model_of()
        model.init(0)
        model.module()
    assert [record.getMessage() for record in caplog.records] == [
        "exchanged 1 batch norm layers of Net for ones on batch statistics"
    ]


def test_vmap_is_refused_where_a_layer_draws() -> None:
    with pytest.raises(UnsupportedError, match=r"Dropout 'dropout' draws; use 'loop'"):
        model_of(batching="vmap")


def test_vmap_is_refused_where_the_forward_draws() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(F.dropout(x, training=self.training))

    model = model_of(Noisy, arguments={"in_features": 4, "out_features": 3}, batching="vmap")
    parameters = {name: value[None] for name, value in model.init(0)[0].items()}
    with pytest.raises(UnsupportedError, match="draws in its forward"):
        model(parameters, {}, torch.zeros(1, 5, 4), seeds=np.array([1]))


def test_outputs_of_another_number_are_refused() -> None:
    model = model_of("torch.nn:Linear", arguments={"in_features": 4, "out_features": 7})
    parameters = {name: value[None] for name, value in model.init(0)[0].items()}
    with pytest.raises(ConfigError, match=r"need outputs \[n, 3\] from the module, got \[5, 7\]"):
        model(parameters, {}, torch.zeros(1, 5, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factory": 3}, "expected 'module:Class', a callable or a module"),
        ({"factory": dict}, "expected builtins:dict to make a torch.nn.Module, got dict"),
        ({"factory": nn.Linear(4, 3), "arguments": {"bias": False}}, "takes none, got"),
        ({"factory": "torch.nn:Linea"}, "did you mean 'Linear'"),
    ],
)
def test_factories_that_make_no_module_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_of(**settings)


def test_module_is_found_by_name() -> None:
    assert registry("model").get("module") is ModuleModel


def test_running_statistics_go_on_from_the_modules_own_and_are_used_in_evaluation() -> None:
    """As torch's layer would have it; tasks share the buffers, and each task's call has its own next values."""
    reference = nn.BatchNorm1d(4, momentum=0.2)
    reference.running_mean += 0.5
    module = nn.Sequential(reference, nn.Linear(4, 3)).double()
    for batching in ("loop", "vmap"):
        model = ModuleModel(ModuleModel.Config(factory=module, norm="running", batching=batching), SPEC)
        assert not model.transductive
        parameters, buffers = model.init(0)
        assert set(buffers) == {"0.running_mean", "0.running_var"}
        shared = [{name: value[None] for name, value in part.items()} for part in (parameters, buffers)]
        x = examples(2)
        _, after = model(*shared, x, seeds=np.array([1, 2]))
        for task in range(2):
            one = nn.BatchNorm1d(4, momentum=0.2).double()
            one.load_state_dict(reference.state_dict())
            one.train()(x[task])
            torch.testing.assert_close(after["0.running_mean"][task], one.running_mean)
            torch.testing.assert_close(after["0.running_var"][task], one.running_var)
        torch.testing.assert_close(model(*shared, x)[0], torch.stack([module.eval()(one) for one in x]))
