"""Phi's gradient through a sample of the coordinates: the same steps, the same gradient on average."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import metasearch.program  # noqa: F401  (lists the built-in parts)
from metasearch.components import Context
from metasearch.components.rules import FlatRule
from metasearch.components.rules.sample import Sample
from metasearch.core.errors import ConfigError
from metasearch.core.registry import build
from metasearch.core.seeds import derive_many

SHAPES = {"weight": (6, 3), "bias": (2,), "gain": ()}
STEPS = 3


def rule(**settings: object) -> FlatRule:
    context = Context(None, None, SHAPES, tuple(SHAPES))  # type: ignore[arg-type]
    built = build("slot.update_rule", {"type": "lstm", "hidden": 3, "scale": 0.1, **settings}, "", context=context)
    assert isinstance(built, FlatRule)
    return built


def normal(tasks: int, seed: int) -> dict[str, Tensor]:
    drawn = np.random.default_rng(seed)
    found = {name: torch.from_numpy(np.asarray(drawn.normal(size=shape))) for name, shape in SHAPES.items()}
    return {name: value.expand(tasks, *value.shape) for name, value in found.items()}


def meta_gradient(made: FlatRule, tasks: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Of a weighted sum over all thetas on the way, its mean over equal tasks; and the last theta of each."""
    values = {name: value.double().requires_grad_() for name, value in made.init(0)[0].items()}
    theta = normal(tasks, 1)
    state = made.begin_update(values, theta, derive_many(seed, "tasks", np.arange(tasks)))
    objective = torch.zeros((), dtype=torch.float64)
    for step in range(STEPS):
        theta, state = made.update(values, theta, normal(tasks, 10 + step), {}, state, step)
        objective = objective + sum((theta[name] * one.abs()).sum() for name, one in normal(tasks, 20 + step).items())
    found = torch.autograd.grad(objective / tasks, list(values.values()))
    flat = torch.cat([value.detach().reshape(tasks, -1) for value in theta.values()], 1)
    return torch.cat([one.flatten() for one in found]), flat


def test_a_sample_of_all_coordinates_gives_the_gradient_itself() -> None:
    plain, end = meta_gradient(rule(), 2)
    found, theta = meta_gradient(rule(through=18), 2)
    assert torch.equal(theta, end)
    torch.testing.assert_close(found, plain, rtol=1e-11, atol=1e-15)


def test_a_sample_takes_the_same_steps_and_is_right_on_average() -> None:
    plain, end = meta_gradient(rule(), 1)
    groups = []
    for seed in range(30):
        found, theta = meta_gradient(rule(through=4), 100, seed)
        torch.testing.assert_close(theta, end.expand_as(theta), rtol=1e-12, atol=0)
        groups.append(found)
    drawn = torch.stack(groups)
    error, spread = drawn.mean(0) - plain, drawn.std(0) / len(drawn) ** 0.5
    assert (spread > 0).any()
    assert spread.norm() < 0.1 * plain.norm()  # so the next line says something
    assert (error.abs() < 4.5 * spread + 1e-15).all()
    assert (meta_gradient(rule(through=4), 1)[0] - plain).norm() > 3 * error.norm()  # one sample is not


def test_each_inner_loop_has_its_own_sample_and_small_tensors_are_there_in_full() -> None:
    like = torch.zeros((), dtype=torch.float64)
    sample = Sample.draw(derive_many(0, "tasks", np.arange(50)), (18, 2, 1), 4, like)
    assert sample.sizes == (4, 2, 1)
    assert sample.places.shape == sample.counts.shape == (50, 7)
    assert all(len(set(row.tolist())) == 7 for row in sample.places)
    assert sample.places[:, :4].max() < 18
    assert set(sample.places[:, :4].flatten().tolist()) == set(range(18))
    assert torch.equal(sample.places[:, 4:], torch.tensor([18, 19, 20]).expand(50, 3))
    assert torch.equal(sample.counts[0], torch.tensor([4.5] * 4 + [1.0] * 3, dtype=torch.float64))
    again = Sample.draw(derive_many(0, "tasks", np.arange(50)), (18, 2, 1), 4, like)
    assert torch.equal(again.places, sample.places)


def test_without_a_gradient_nothing_is_drawn() -> None:
    made = rule(through=4)
    values = {name: value.double() for name, value in made.init(0)[0].items()}
    assert "places" not in made.begin_update(values, normal(2, 1), np.arange(2))
    leaves = {name: value.requires_grad_() for name, value in values.items()}
    assert "places" in made.begin_update(leaves, normal(2, 1), np.arange(2))
    with torch.no_grad():
        assert "places" not in made.begin_update(leaves, normal(2, 1), np.arange(2))
    assert made.draws
    assert not rule().draws


def test_a_sample_needs_gradients_that_are_constants() -> None:
    with pytest.raises(ConfigError, match=r"through: needs gradients that are constants"):
        rule(through=4, second_order=True)
