"""Self-supervised learners against computations by hand, and as the start of an inner loop."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import metasearch as ms
import metasearch.learners  # lists the built-in learners
from metasearch.artifacts import start_from
from metasearch.core.errors import ArtifactError, UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Batch, Phi, Task, TaskSpec
from metasearch.running import Silent
from metasearch.testing.phi import stored_phi

CONV = {"type": "conv4", "filters": 3, "blocks": 1, "pool": "max", "head": "none"}
LINEAR = {"type": "mlp", "hidden": []}
SPEC = TaskSpec("classification", (1, 6, 6), 2, 2, 4)


def learner(kind: str, spec: TaskSpec = SPEC, **settings: Any) -> Any:
    return build("learner", {"type": kind, "features": 5, **settings}, "learner", spec=spec)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tasks(count: int = 2) -> Task:
    def batch(each: int, seed: int) -> Batch:
        return Batch(
            drawn(count, 2 * each, 1, 6, 6, seed=seed), torch.arange(2).repeat_interleave(each).repeat(count, 1)
        )

    return Task(batch(1, 1), batch(2, 2), np.arange(count))


def phi_of(made: Any) -> Phi:
    """A fresh phi in double precision, moved off its zeros."""
    phi = made.init(0).to("cpu", torch.float64)
    moved = {name: value + 0.3 * drawn(*value.shape, seed=7) for name, value in phi.tensors.items()}
    return phi.replace(tensors=moved)


def test_rotation_prediction_equals_torchs_layers_on_pictures_turned_one_by_one() -> None:
    made, task = learner("rotation_prediction", model=CONV), tasks()
    phi = phi_of(made)
    found, tensors = made.evaluate(phi, task, 0), phi.tensors
    for t in range(2):
        x = torch.cat([task.support.x[t], task.query.x[t]])
        turned = [np.rot90(one[0].numpy(), turn).copy() for one in x for turn in range(4)]
        z = F.conv2d(torch.from_numpy(np.stack(turned))[:, None], tensors["embedding.blocks.0.conv.weight"], padding=1)
        norm = (tensors[f"embedding.blocks.0.norm.{name}"] for name in ("weight", "bias"))
        z = F.max_pool2d(F.batch_norm(z, None, None, *norm, training=True).relu(), 2).flatten(1)
        logits = F.linear(z, tensors["pretext.weight"], tensors["pretext.bias"]).reshape(6, 4, 4)
        right = [float(logits[i, turn].argmax() == turn) for i in range(2, 6) for turn in range(4)]
        losses = torch.stack([F.cross_entropy(one, torch.arange(4)) for one in logits])
        torch.testing.assert_close(found.objective[t], losses.mean())
        torch.testing.assert_close(found.query[t], losses[2:].mean())
        assert float(found.metrics["rotation_accuracy"][t]) == pytest.approx(np.mean(right))


def test_the_contrastive_loss_equals_a_loop_over_pairs_of_views() -> None:
    made, task = learner("contrastive", model=LINEAR, temperature=0.3, projection=4), tasks()
    phi = phi_of(made)
    found, views, tensors = made.evaluate(phi, task, 5), made.drawn(task, 5)["views"], phi.tensors

    def projected(x: Tensor) -> Tensor:
        z = F.linear(x.flatten(), tensors["embedding.head.weight"], tensors["embedding.head.bias"])
        hidden = F.linear(z, tensors["pretext.hidden.weight"], tensors["pretext.hidden.bias"]).relu()
        return tensors["pretext.weight"] @ hidden

    for t in range(2):
        every = [(i, projected(views[t, side, i])) for side in range(2) for i in range(6)]
        losses: dict[int, list[Tensor]] = {i: [] for i in range(6)}
        right: list[float] = []
        for here, (i, one) in enumerate(every):
            others = [(j, F.cosine_similarity(one, two, dim=0) / 0.3) for k, (j, two) in enumerate(every) if k != here]
            (same,) = [near for j, near in others if j == i]
            losses[i].append(-(same.exp() / torch.stack([near.exp() for _, near in others]).sum()).log())
            right += [float(max(others, key=lambda other: float(other[1]))[0] == i)] if i > 1 else []
        each = torch.stack([torch.stack(pair).mean() for pair in losses.values()])
        torch.testing.assert_close(found.objective[t], each.mean())
        torch.testing.assert_close(found.query[t], each[2:].mean())
        assert float(found.metrics["view_accuracy"][t]) == pytest.approx(np.mean(right))


def test_views_are_two_differ_and_come_from_the_tasks_own_seeds() -> None:
    made, task = learner("contrastive", model=LINEAR), tasks()
    views = made.drawn(task, 5)["views"]
    assert (views[:, 0] != views[:, 1]).any((1, 2, 3, 4)).all()
    assert not torch.equal(views, made.drawn(task, 6)["views"])
    second = Task(
        Batch(task.support.x[1:], task.support.y[1:]), Batch(task.query.x[1:], task.query.y[1:]), np.array([1])
    )
    assert torch.equal(made.drawn(second, 5)["views"][0], views[1])


@pytest.mark.parametrize("kind", ["rotation_prediction", "contrastive"])
def test_labels_enter_the_accuracy_in_evaluation_and_nothing_else(kind: str) -> None:
    made, task = learner(kind, model=CONV), tasks()
    phi = phi_of(made)
    other = dataclasses.replace(task, query=Batch(task.query.x, 1 - task.query.y))
    for train in (True, False):
        losses, again = (made.evaluate(phi, one, 0, train=train) for one in (task, other))
        assert torch.equal(losses.objective, again.objective)
        assert torch.equal(losses.query, again.query)
        assert ("accuracy" in losses.metrics) == (not train)
        if not train:
            torch.testing.assert_close(losses.metrics["accuracy"], 1 - again.metrics["accuracy"])


def test_the_nearest_class_mean_is_a_linear_layer() -> None:
    made, task = learner("rotation_prediction", model=LINEAR), tasks(count=1)
    phi = made.init(0).to("cpu", torch.float64)
    adapted = made.adapt(phi, task.support, 0)
    logits = adapted.module()(task.query.x[0])
    torch.testing.assert_close(logits.softmax(-1), adapted(task.query.x)[0].softmax(-1))
    with pytest.raises(ArtifactError, match="no linear function of its embedding"):
        learner("rotation_prediction", model=LINEAR, distance="cosine").adapt(phi, task.support, 0).module()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"rotation_prediction needs square pictures, got \[1, 6, 5\]"):
        learner("rotation_prediction", dataclasses.replace(SPEC, input_shape=(1, 6, 5)), model=LINEAR)
    with pytest.raises(UnsupportedError, match=r"contrastive needs pictures .* got \[6\]"):
        learner("contrastive", dataclasses.replace(SPEC, input_shape=(6,)), model=LINEAR)
    with pytest.raises(UnsupportedError, match="distance: learns nothing here"):
        learner("contrastive", model=LINEAR, distance={"type": "cosine", "learned": True})
    with pytest.raises(UnsupportedError, match="views: has choices"):
        learner("contrastive", model=LINEAR, views={"type": "sub_policies"})


@pytest.mark.parametrize("kind", ["rotation_prediction", "contrastive", "prototypical"])
@pytest.mark.parametrize("zero", [["head.*"], []])
def test_an_embedding_is_the_start_of_an_inner_loop_and_its_own_head_is_left_behind(
    tmp_path: Path, kind: str, zero: list[str]
) -> None:
    spec = dataclasses.replace(SPEC, outputs=4, support=4, query=4)  # as many classes as turns
    source = stored_phi(tmp_path / "phi", learner={"type": kind, "model": CONV}, spec=spec, seed=3)
    block = {
        "type": "inner_loop",
        "model": {**CONV, "head": "flatten"},
        "slots": {"initialization": {"type": "tensors", "zero": zero}},
    }
    fresh = build("learner", block, "learner", spec=spec).init(0)
    phi, start = start_from(source, fresh)
    body = list(ms.load(source).phi.part("embedding"))
    assert list(start.loaded) == body == ["blocks.0.conv.weight", "blocks.0.norm.weight", "blocks.0.norm.bias"]
    assert set(start.fresh) == (set() if zero else {"head.weight", "head.bias"})
    learned = ms.load(source).phi.tensors
    assert all(torch.equal(phi.tensors[f"initialization.{name}"], learned[f"embedding.{name}"]) for name in body)
    if not zero:
        assert torch.equal(phi.tensors["initialization.head.weight"], fresh.tensors["initialization.head.weight"])


def test_a_search_learns_how_far_drawings_are_turned_and_maml_starts_from_it(tmp_path: Path) -> None:
    model = {"type": "conv4", "filters": 8, "blocks": 2}
    common = {
        "tasks": {"type": "omniglot", "image_size": 12, "ways": 5, "shots": 1, "queries": 3, "rotations": "none"},
        "searcher": {"type": "gradient", "lr": 0.01},
        "validation": {"every": 20, "episodes": 20, "shard": 20},
        "execution": {"type": "inline"},
        "numerics": {"compile": "never"},
        "tracking": {"mlflow": False, "report": False},
    }
    run = ms.run(
        {
            **common,
            "name": "turned",
            "learner": {"recipe": "rotation_prediction", "model": {**model, "head": "none"}},
            "evaluation": {"tasks": 8, "shard": 8},
            "budget": {"steps": 20},
        },
        runs=tmp_path / "runs",
        listener=Silent(),
    )
    found = ms.evaluate(run.phi_path, episodes=20)
    assert found["rotation_accuracy"] > 0.35  # chance is 0.25
    assert found["accuracy"] > 0.35  # chance is 0.2
    tree = {
        **common,
        "name": "from-turned",
        "learner": {
            "recipe": "maml",
            "model": {**model, "head": "flatten"},
            "slots": {"initialization": {"type": "tensors", "zero": ["head.*"], "from": str(run.phi_path)}},
        },
        "evaluation": {"tasks": 2, "shard": 2},
        "budget": {"steps": 1},
    }
    started = ms.load(ms.run(tree, runs=tmp_path / "runs", listener=Silent()).phi_path).phi
    for name, value in ms.load(run.phi_path).phi.part("embedding").items():
        moved = started.tensors[f"initialization.{name}"] - value
        assert 0 < float(moved.abs().max()) < 0.05  # by one step of Adam
