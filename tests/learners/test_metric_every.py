"""What holds for every metric learner: exact gradients, fixed graphs, other ways and shots, clear refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import metasearch.learners
import metasearch.models  # noqa: F401  (these list the built-in parts)
from metasearch.core.contracts import Drawing
from metasearch.core.errors import UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Batch, Phi, Task, TaskSpec
from metasearch.estimators.compile import trace

SMOOTH = {"type": "mlp", "hidden": [6], "activation": "tanh"}
CONV = {"type": "conv4", "filters": 3, "blocks": 2, "pool": "max", "head": "none"}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tasks(ways: int = 3, shots: int = 2, queries: int = 3, count: int = 2) -> Task:
    def batch(each: int, seed: int) -> Batch:
        y = torch.arange(ways).repeat_interleave(each).expand(count, -1)
        return Batch(drawn(count, ways * each, 1, 8, 8, seed=seed), y)

    unlabelled = drawn(count, 4, 1, 8, 8, seed=3)
    return Task(batch(shots, 1), batch(queries, 2), np.arange(count), {"unlabelled": unlabelled})


def phi_of(made: Any, seed: int = 0) -> Phi:
    """A fresh phi in double precision, moved off its zeros."""
    phi = made.init(seed).to("cpu", torch.float64)
    return phi.replace(
        tensors={
            name: value + 0.2 * drawn(*value.shape, seed=index)
            for index, (name, value) in enumerate(phi.tensors.items())
        }
    )


RUNNING = {**CONV, "norm": "running"}
EVERY: dict[str, dict[str, Any]] = {
    "prototypical": {"model": SMOOTH, "distance": {"type": "cosine", "learned": True}},
    "prototypical, maps": {"model": RUNNING},
    "prototypical, radius": {"model": SMOOTH, "precision": "radius", "distance": "euclidean"},
    "prototypical, diagonal": {"model": RUNNING, "precision": "diagonal"},
    "prototypical, refined": {"model": SMOOTH, "refinement": {"steps": 2}},
    "prototypical, distractors": {"model": CONV, "refinement": {"distractors": True, "radius": 3.0}},
    "matching": {"model": SMOOTH, "shared": False},
    "matching in context": {"model": SMOOTH, "context": {"steps": 2}},
    "matching, maps": {"model": CONV, "norm_over": "set", "distance": "squared_euclidean"},
    "relation": {"model": CONV, "relation": {**SMOOTH, "batch_norm": True}, "hidden": 4},
    "siamese": {"model": RUNNING, "squash": True},
    "siamese, contrastive": {"model": SMOOTH, "energy": "cosine", "margin": 0.3},
    "rotation_prediction": {"model": SMOOTH},
    "rotation_prediction, maps": {"model": RUNNING},
    "contrastive": {"model": SMOOTH, "temperature": 0.2, "projection": 4},
    "contrastive, maps": {"model": CONV},
}


def kind_of(name: str) -> str:
    return name.partition(" ")[0].strip(",")


def made_of(name: str, ways: int = 3) -> Any:
    spec = TaskSpec("classification", (1, 8, 8), ways, 2 * ways, 3 * ways)
    return build("learner", {"type": kind_of(name), "features": 6, **EVERY[name]}, "learner", spec=spec)


@pytest.mark.parametrize("name", EVERY)
class TestEvery:
    def test_gradients_equal_finite_differences(self, name: str) -> None:
        made, task = made_of(name), tasks()
        phi = phi_of(made)
        leaves = {key: value.requires_grad_() for key, value in phi.tensors.items()}
        found = torch.autograd.grad(made.evaluate(phi, task, 0).objective.sum(), list(leaves.values()))
        step = 1e-6
        for seed in (7, 8):
            direction = {key: drawn(*value.shape, seed=seed) for key, value in leaves.items()}
            slope = sum(float((one * direction[key]).sum()) for one, key in zip(found, leaves, strict=True))
            ends = [
                float(
                    made.evaluate(
                        phi.replace(tensors={k: (v + way * direction[k]).detach() for k, v in leaves.items()}), task, 0
                    ).objective.sum()
                )
                for way in (step, -step)
            ]
            assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)

    def test_a_traced_gradient_equals_the_plain_one(self, name: str) -> None:
        made, task = made_of(name), tasks()
        phi = phi_of(made)
        names = list(phi.tensors)
        draws = made.drawn(task, 0) if isinstance(made, Drawing) else {}
        first = len(names)

        def gradients(flat: list[Tensor]) -> tuple[Tensor, ...]:
            leaves = [value.detach().requires_grad_() for value in flat[: len(names)]]
            info = dict(zip(draws, flat[len(flat) - len(draws) :], strict=True))
            given = Task(Batch(*flat[first : first + 2]), Batch(*flat[first + 2 : first + 4]), task.seeds, info)
            with torch.enable_grad():
                losses = made.evaluate(phi.replace(tensors=dict(zip(names, leaves, strict=True))), given, 0)
                found = torch.autograd.grad(losses.objective.sum(), leaves)
            return (losses.objective.detach(), *losses.metrics.values(), *losses.updates.values(), *found)

        flat = [*phi.tensors.values(), task.support.x, task.support.y, task.query.x, task.query.y, *draws.values()]
        moved = [value * 1.1 for value in flat[:first]] + [
            task.query.x[:, :6].contiguous(),
            *flat[first + 1 : first + 4],
        ]
        moved += [value * 1.2 for value in draws.values()]
        graph = trace(gradients, flat)
        for left, right in zip(graph(*moved), gradients(moved), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)

    def test_other_ways_and_shots_than_in_training(self, name: str) -> None:
        phi = phi_of(made_of(name))
        made, task = made_of(name, ways=5), tasks(ways=5, shots=1, queries=2)
        losses = made.evaluate(phi, task, 0, train=False)
        assert torch.isfinite(losses.query).all()
        outputs = made.adapt(phi, task.support, 0)(task.query.x)
        assert outputs.shape == (2, 10, 5)
        if made.takes_unlabelled:
            return  # what it learned from is not in the support set
        accuracy = (outputs.argmax(-1) == task.query.y).double().mean(-1)
        torch.testing.assert_close(accuracy, losses.metrics["accuracy"])

    def test_other_tasks_and_steps_are_refused(self, name: str) -> None:
        kind = kind_of(name)
        spec = TaskSpec("regression", (1,), 1, 5, 5)
        with pytest.raises(
            UnsupportedError, match=rf"{kind} .*needs classification tasks, got 'regression'.*inner_loop"
        ):
            build("learner", {"type": kind, "model": SMOOTH}, "learner", spec=spec)
        made, task = made_of(name), tasks()
        with pytest.raises(UnsupportedError, match=f"{kind} has no inner steps"):
            made.adapt(phi_of(made), task.support, 0, steps=3)
