"""Prototypes with precisions, and prototypes that unlabelled examples refine, against loops over examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import metasearch.learners
import metasearch.models  # noqa: F401  (these list the built-in parts)
from metasearch.core.errors import ArtifactError, ConfigError, UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Batch, Phi, Task, TaskSpec

LINEAR = {"type": "mlp", "hidden": []}


def learner(ways: int = 3, features: int = 6, **settings: Any) -> Any:
    spec = TaskSpec("classification", (4,), ways, 2 * ways, 3 * ways)
    return build("learner", {"type": "prototypical", "model": LINEAR, "features": features, **settings}, "", spec=spec)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tasks(unlabelled: int = 5) -> Task:
    def batch(each: int, seed: int) -> Batch:
        return Batch(drawn(2, 3 * each, 4, seed=seed), torch.arange(3).repeat_interleave(each).expand(2, -1))

    return Task(batch(2, 1), batch(3, 2), np.arange(2), {"unlabelled": drawn(2, unlabelled, 4, seed=3)})


def phi_of(made: Any) -> Phi:
    return made.init(0).to("cpu", torch.float64)


def embedded(phi: Phi, x: Tensor) -> Tensor:
    return x @ phi.tensors["embedding.head.weight"].T + phi.tensors["embedding.head.bias"]


@pytest.mark.parametrize(("precision", "positions"), [("radius", 5), ("diagonal", 3)])
@pytest.mark.parametrize("distance", ["euclidean", "squared_euclidean"])
def test_precisions_weight_means_and_distances(precision: str, positions: int, distance: str) -> None:
    made = learner(precision=precision, distance={"type": distance, "temperature": 0.5})
    phi, task = phi_of(made), tasks()
    outputs = made.adapt(phi, task.support, 0)(task.query.x)
    for t in range(2):
        z = embedded(phi, task.support.x[t])
        for q, x in enumerate(task.query.x[t]):
            point = embedded(phi, x)[:positions]
            for k in range(3):
                weighted, total = torch.zeros(positions).double(), torch.zeros(positions).double()
                for one in z[task.support.y[t] == k]:
                    sure = 1 + torch.log1p(torch.exp(one[positions:]))  # one number, or one for each dimension
                    weighted, total = weighted + sure * one[:positions], total + sure
                squared = float((total * (point - weighted / total) ** 2).sum())
                expected = -(squared**0.5 if distance == "euclidean" else squared) / 0.5
                assert float(outputs[t, q, k]) == pytest.approx(expected, rel=1e-9)


def test_euclidean_distance_is_the_root_and_finite_at_zero() -> None:
    distance = build("distance", "euclidean", "")
    x, y = drawn(2, 3, 4), drawn(2, 5, 4, seed=1)
    torch.testing.assert_close(distance({}, x, y), -torch.cdist(x, y))
    leaf = x.clone().requires_grad_()
    distance({}, leaf, x).sum().backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()


def by_hand(z: Tensor, y: Tensor, more: Tensor, steps: int, radius: float | None) -> list[Tensor]:
    """Soft k-means for one task of three classes, example by example."""
    centres = [z[y == k].mean(0) for k in range(3)]
    for _ in range(steps):
        sums, counts = [z[y == k].sum(0) for k in range(3)], [float((y == k).sum()) for k in range(3)]
        for x in more:
            near = [torch.exp(-((x - c) ** 2).sum()) for c in centres]
            if radius is not None:
                near.append(torch.exp(-(x**2).sum() / radius**2) / radius)
            for k in range(3):
                share = near[k] / sum(near)
                sums[k], counts[k] = sums[k] + share * x, counts[k] + float(share)
        centres = [total / count for total, count in zip(sums, counts, strict=True)]
    return centres


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("radius", [None, 2.5])
@pytest.mark.parametrize("learned", [True, False])
def test_refined_prototypes_are_soft_k_means_by_hand(steps: int, radius: float | None, learned: bool) -> None:
    distractors = {} if radius is None else {"distractors": True, "radius": radius, "learned": learned}
    made = learner(refinement={"steps": steps, **distractors})
    phi, task = phi_of(made), tasks()
    assert ("refinement.log_radius" in phi.tensors) == (radius is not None and learned)
    losses = made.evaluate(phi, task, 0)
    for t in range(2):
        z, more = embedded(phi, task.support.x[t]), embedded(phi, task.info["unlabelled"][t])
        centres = torch.stack(by_hand(z, task.support.y[t], more, steps, radius))
        scores = -(torch.cdist(embedded(phi, task.query.x[t]), centres) ** 2)
        expected = torch.nn.functional.cross_entropy(scores, task.query.y[t])
        torch.testing.assert_close(losses.query[t], expected)
    held_out = made.evaluate(phi, task, 0, train=False)
    torch.testing.assert_close(held_out.query, losses.query)


def test_a_radius_is_learned_by_its_gradient() -> None:
    made = learner(refinement={"distractors": True, "radius": 2.0})
    phi = phi_of(made)
    leaf = phi.tensors["refinement.log_radius"].requires_grad_()
    made.evaluate(phi, tasks(), 0).query.sum().backward()
    assert leaf.grad is not None
    assert abs(float(leaf.grad)) > 1e-6


def test_examples_labelled_minus_one_count_as_the_unlabelled_ones_of_a_task_wherever_they_stand() -> None:
    made, task = learner(refinement={"steps": 2}), tasks()
    phi = phi_of(made)
    x = torch.cat([task.support.x, task.info["unlabelled"]], 1)
    y = torch.cat([task.support.y, torch.full((2, 5), -1)], 1)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    outputs = made.adapt(phi, Batch(x[:, order], y[:, order]), 0)(task.query.x)
    loss = torch.nn.functional.cross_entropy(outputs.transpose(1, 2), task.query.y, reduction="none").mean(-1)
    torch.testing.assert_close(loss, made.evaluate(phi, task, 0, train=False).query)


def test_without_unlabelled_examples_refined_prototypes_are_the_means() -> None:
    plain, refined, task = learner(), learner(refinement={"steps": 2, "distractors": True}), tasks()
    phi = phi_of(refined)
    bare = Task(task.support, task.query, task.seeds)
    torch.testing.assert_close(
        refined.evaluate(phi, bare, 0, train=False).query, plain.evaluate(phi, task, 0, train=False).query
    )
    with pytest.raises(UnsupportedError, match=r"set tasks\.unlabelled"):
        refined.evaluate(phi, bare, 0)


def test_refined_prototypes_are_a_linear_layer_and_those_with_precisions_are_none() -> None:
    task = tasks()
    support = Batch(task.support.x[:1], task.support.y[:1])
    refined = learner(refinement={})
    y = torch.tensor([[0, 1, 2, -1, -1, -1]])
    adapted = refined.adapt(phi_of(refined), Batch(support.x, y), 0)
    apart = adapted.module()(task.query.x[0]) - adapted(task.query.x[:1])[0]
    torch.testing.assert_close(apart, apart[:, :1].expand_as(apart), rtol=1e-9, atol=1e-9)
    sure = learner(precision="radius")
    with pytest.raises(ArtifactError, match="without precisions"):
        sure.adapt(phi_of(sure), support, 0).module()


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"precision": "radius", "distance": "cosine"}, UnsupportedError, "precision.*take distance euclidean"),
        ({"precision": "radius", "refinement": {}}, UnsupportedError, "do not go together"),
        ({"precision": "diagonal", "features": 5}, ConfigError, "precision.*half of the embedding's outputs.*5"),
        ({"precision": "radius", "features": 1}, ConfigError, "precision.*one of the embedding's outputs.*1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        learner(**settings)
