"""Hypergradient descent against formulas written out by hand, torch's own optimizers, and finite differences."""

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from metasearch.core.errors import ConfigError
from metasearch.optim import SGDHD, AdamHD, NesterovHD

DECAY = 1e-2
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (SGDHD, {"lr": 0.05, "hyper_lr": 0.02}),
    "nesterov": (NesterovHD, {"lr": 0.02, "hyper_lr": 0.002, "momentum": 0.8}),
    "adam": (AdamHD, {"lr": 0.02, "hyper_lr": 0.001, "betas": (0.7, 0.95), "eps": 1e-6}),
}


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def batches(count: int, dtype: torch.dtype = torch.float64) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(6, 3, generator=draw, dtype=torch.float64).to(dtype),
            torch.randint(2, (6,), generator=draw),
        )
        for _ in range(count)
    ]


def loss_of(module: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(module(batch[0]), batch[1])


def train(
    module: nn.Module, optimizer: torch.optim.Optimizer, data: list[tuple[torch.Tensor, torch.Tensor]]
) -> list[float]:
    rates = []
    for batch in data:
        optimizer.zero_grad()
        loss_of(module, batch).backward()
        optimizer.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates


def flat(module: nn.Module) -> np.ndarray[Any, Any]:
    return torch.cat([value.detach().flatten() for value in module.parameters()]).numpy()


def by_hand(kind: str, module: nn.Module, data: Any, settings: dict[str, Any]) -> tuple[list[float], Any]:
    """The equations on one flat vector, in numpy; only the gradient comes from torch."""
    theta, rate, before = flat(module).copy(), settings["lr"], None
    shapes = [value.shape for value in module.parameters()]
    velocity = mean = square = np.zeros_like(theta)
    rates = []
    for t, batch in enumerate(data, start=1):
        parts = np.split(theta, np.cumsum([shape.numel() for shape in shapes])[:-1])
        leaves = [torch.tensor(part).reshape(shape).requires_grad_() for part, shape in zip(parts, shapes, strict=True)]
        hidden = torch.tanh(batch[0] @ leaves[0].T + leaves[1])
        loss = nn.functional.cross_entropy(hidden @ leaves[2].T + leaves[3], batch[1])
        gradient = np.concatenate([one.numpy().ravel() for one in torch.autograd.grad(loss, leaves)]) + DECAY * theta
        if before is not None:
            rate = rate + settings["hyper_lr"] * float(gradient @ before)
        if kind == "sgd":
            step = gradient
        elif kind == "nesterov":
            velocity = settings["momentum"] * velocity + gradient
            step = gradient + settings["momentum"] * velocity
        else:
            b1, b2 = settings["betas"]
            mean = b1 * mean + (1 - b1) * gradient
            square = b2 * square + (1 - b2) * gradient**2
            step = (mean / (1 - b1**t)) / (np.sqrt(square / (1 - b2**t)) + settings["eps"])
        theta = theta - rate * step
        before = step
        rates.append(rate)
    return rates, theta


@pytest.mark.parametrize("kind", KINDS)
def test_rates_and_weights_follow_the_equations(kind: str) -> None:
    make, settings = KINDS[kind]
    module, data = network(), batches(12)
    rates, theta = by_hand(kind, module, data, settings)
    found = train(module, make(module.parameters(), weight_decay=DECAY, **settings), data)
    np.testing.assert_allclose(found, rates, rtol=1e-12)
    np.testing.assert_allclose(flat(module), theta, rtol=1e-10, atol=1e-13)
    assert len(set(rates)) == 12


PLAIN: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.05, weight_decay=DECAY),
    "nesterov": lambda params: torch.optim.SGD(params, lr=0.02, momentum=0.8, nesterov=True, weight_decay=DECAY),
    "adam": lambda params: torch.optim.Adam(params, lr=0.02, betas=(0.7, 0.95), eps=1e-6, weight_decay=DECAY),
}


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_hypergradient_they_are_torch_s_own(kind: str) -> None:
    make, settings = KINDS[kind]
    mine, theirs, data = network(), network(), batches(10)
    rates = train(mine, make(mine.parameters(), weight_decay=DECAY, **{**settings, "hyper_lr": 0.0}), data)
    train(theirs, PLAIN[kind](theirs.parameters()), data)
    assert set(rates) == {settings["lr"]}
    np.testing.assert_allclose(flat(mine), flat(theirs), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_moves_against_the_loss_s_derivative_by_the_rate_of_the_step_before(kind: str) -> None:
    make, settings = KINDS[kind]
    data = batches(5)

    def after(rate: float) -> tuple[nn.Module, Any]:
        """Four steps, the last one under another rate than the optimizer would take."""
        module = network()
        optimizer = make(module.parameters(), **settings)
        train(module, optimizer, data[:3])
        optimizer.param_groups[0].update(lr=rate, hyper_lr=0.0)
        train(module, optimizer, data[3:4])
        optimizer.param_groups[0]["hyper_lr"] = settings["hyper_lr"]
        return module, optimizer

    rate, size = 0.03, 1e-6
    above, below = (float(loss_of(after(rate + sign * size)[0], data[4]).detach()) for sign in (1, -1))
    module, optimizer = after(rate)
    (moved,) = train(module, optimizer, data[4:])
    assert moved - rate == pytest.approx(-settings["hyper_lr"] * (above - below) / (2 * size), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_optimizer_goes_on_bit_for_bit(kind: str) -> None:
    make, settings = KINDS[kind]
    data = batches(9, torch.float32)
    whole = network(torch.float32)
    optimizer = make(whole.parameters(), **settings)
    train(whole, optimizer, data[:4])
    half = copy.deepcopy(whole)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    rates = train(whole, optimizer, data[4:])
    buffer.seek(0)
    resumed = make(half.parameters(), **settings)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert train(half, resumed, data[4:]) == rates
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), half.parameters(), strict=True))


def test_each_group_moves_a_rate_of_its_own() -> None:
    module, data = network(), batches(6)
    body, head = list(module.parameters())[:2], list(module.parameters())[2:]
    optimizer = SGDHD([{"params": body}, {"params": head, "hyper_lr": 0.0}], lr=0.05, hyper_lr=0.02)
    train(module, optimizer, data)
    assert optimizer.param_groups[0]["lr"] != 0.05
    assert optimizer.param_groups[1]["lr"] == 0.05


def test_parameters_without_a_gradient_stay_and_say_nothing_about_the_rate() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SGDHD([used, unused], lr=0.1, hyper_lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        used.square().sum().backward()
        optimizer.step()
    assert torch.equal(unused, torch.ones(2))
    assert float(used[0].detach()) < 0.6


def test_a_closure_is_evaluated_and_its_loss_returned() -> None:
    point = nn.Parameter(torch.tensor([2.0]))
    optimizer = SGDHD([point], lr=0.25)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = point.square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 4.0
    assert point.tolist() == [1.0]


@pytest.mark.parametrize(
    ("make", "settings", "words"),
    [
        (SGDHD, {"lr": -0.1}, "lr: expected a number of at least 0, got -0.1"),
        (SGDHD, {"hyper_lr": float("nan")}, "hyper_lr: expected"),
        (NesterovHD, {"momentum": 1.0}, r"momentum: expected a number in \[0, 1\), got 1.0"),
        (AdamHD, {"betas": (0.9, 1.5)}, "betas: expected two numbers"),
    ],
)
def test_impossible_settings_are_refused(make: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make([nn.Parameter(torch.ones(1))], **settings)


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(3, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ConfigError, match="expected dense gradients"):
        SGDHD(table.parameters()).step()
