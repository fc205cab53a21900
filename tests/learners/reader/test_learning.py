"""Gradients of every reader against finite differences, and a short training that lowers the loss."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import metasearch.program  # noqa: F401  (lists the built-in parts)
from metasearch.core.registry import build
from metasearch.core.values import Batch, Phi, Task, TaskSpec
from metasearch.estimators.episodes import Problem

EMBEDDING = {"embedding": {"type": "mlp", "hidden": [5], "activation": "tanh"}, "features": 4}
CONV4 = {"embedding": {"type": "conv4", "filters": 3, "blocks": 2, "head": "none"}}
SNAIL = {"type": "snail", "attentions": [[4, 4], [4, 4]], "filters": 4, "length": 4}
MANN = {"type": "mann", "hidden": 6, "rows": 5, "word": 3, "heads": 2}
SINUSOID = {"type": "sinusoid", "shots": 4, "queries": 3}
IMAGES = {"type": "omniglot", "ways": 3, "shots": 1, "queries": 2, "image_size": 8}

GRADIENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "snail": (SINUSOID, {**SNAIL, **EMBEDDING}),
    "snail on images": (IMAGES, {**SNAIL, **CONV4}),
    "snail along the sequence": (SINUSOID, {**SNAIL, "labels": "shifted", "loss": "sequence"}),
    "set transformer": (IMAGES, {"type": "transformer", "width": 8, "heads": 2, "blocks": 2, **CONV4}),
    "causal transformer": (SINUSOID, {"type": "transformer", "form": "causal", "width": 8, "heads": 2, "blocks": 1}),
    "lstm": (SINUSOID, {"type": "recurrent", "hidden": 5, "depth": 2, **EMBEDDING}),
    "gru": (SINUSOID, {"type": "recurrent", "cell": "gru", "hidden": 5}),
    "mann": (IMAGES, MANN),
    "mann that stores keys": (SINUSOID, {**MANN, "stores": "key", "strength": 4.0, **EMBEDDING}),
    "meta networks": (IMAGES, {"type": "meta_networks", "hidden": 6, "generator": 4, **CONV4}),
    "meta networks for values": (
        SINUSOID,
        {"type": "meta_networks", "hidden": 6, "generator": 4, "pieces": 3, **EMBEDDING},
    ),
    "written head": (IMAGES, {"type": "weight_generator", "hidden": 6, "code": 5, **CONV4}),
    "written network": (
        SINUSOID,
        {
            "type": "weight_generator",
            "hidden": 6,
            "code": 5,
            "network": {"type": "mlp", "hidden": [4], "activation": "tanh"},
        },
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_gradient_agrees_with_finite_differences_in_all_of_phi(name: str) -> None:
    tasks_block, learner_block = GRADIENTS[name]
    tasks = build("task", tasks_block, "tasks", device="cpu", dtype=torch.float64)
    learner = build("learner", learner_block, "learner", spec=tasks.spec("train"))
    problem = Problem(tasks, lambda choices, split: learner, dtype=torch.float64)
    estimator = build("estimator", {"type": "backprop", "tasks": 2, "shard": 2}, "", problem=problem)
    phi = problem.phi(learner.init(3))
    draw = np.random.default_rng(0)
    # Away from the start, where the head is almost zero and hides what lies before it.
    phi = phi.replace(
        tensors={key: one + torch.from_numpy(0.3 * draw.normal(size=one.shape)) for key, one in phi.tensors.items()}
    )

    def estimate(point: Phi) -> Any:
        return estimator.combine([estimator.measure(call) for call in estimator.calls(0, point, None, 5)])[0]

    found, step = estimate(phi).gradient, 1e-6
    seen = 0
    for key, tensor in phi.tensors.items():
        direction = torch.from_numpy(draw.normal(size=tuple(tensor.shape)))
        sides = [
            estimate(phi.replace(tensors={**phi.tensors, key: tensor + sign * step * direction})).objective
            for sign in (1, -1)
        ]
        slope = float((found[key] * direction).sum())
        assert slope == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=2e-5, abs=2e-8), key
        seen += abs(slope) > 1e-9
    assert seen >= len(phi.tensors) - 2  # a bias of all keys moves no softmax, and one before batch norm moves nothing


class Points:
    """Each task has three points in the plane, far from each other: a class is what lies around its point."""

    def spec(self, split: str) -> TaskSpec:
        return TaskSpec("classification", (2,), 3, 6, 9)

    def sample(self, split: str, seeds: np.ndarray) -> Task:
        draw = [np.random.default_rng(int(seed) % 2**32) for seed in seeds]
        turn = np.stack([one.uniform(0, 2 * np.pi) + one.permutation(3) * 2 * np.pi / 3 for one in draw])
        points = np.stack([np.cos(turn), np.sin(turn)], -1)

        def batch(each: int) -> Batch:
            noise = np.stack([one.normal(size=(3 * each, 2)) for one in draw])
            x = torch.tensor(points.repeat(each, 1) + 0.1 * noise, dtype=torch.float32)
            return Batch(x, torch.arange(3).repeat_interleave(each).expand(len(seeds), -1))

        return Task(batch(2), batch(3), np.asarray(seeds))


TRAINED: Mapping[str, tuple[dict[str, Any], float, int]] = {
    "snail": ({"type": "snail", "attentions": [[8, 8], [8, 8]], "filters": 8, "length": 8}, 1e-2, 60),
    "set transformer": ({"type": "transformer", "width": 16, "heads": 2, "blocks": 2}, 1e-2, 60),
    "causal transformer": ({"type": "transformer", "form": "causal", "width": 16, "heads": 2, "blocks": 2}, 1e-2, 80),
    "lstm": ({"type": "recurrent", "hidden": 24}, 3e-2, 80),
    "mann": ({"type": "mann", "hidden": 24, "rows": 12, "word": 8, "heads": 2, "strength": 5.0}, 2e-2, 100),
    "meta networks": ({"type": "meta_networks", "hidden": 16}, 1e-2, 60),
    "written head": (
        {"type": "weight_generator", "hidden": 16, "code": 16, "embedding": {"type": "mlp", "hidden": []}},
        1e-2,
        60,
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_a_short_training_lowers_the_loss_on_new_tasks_clearly(name: str) -> None:
    block, lr, steps = TRAINED[name]
    tasks = Points()
    learner = build("learner", block, "learner", spec=tasks.spec("train"))
    phi = learner.init(0)
    held_out = tasks.sample("test", np.arange(10_000, 10_100))
    leaves = {key: one.requires_grad_() for key, one in phi.tensors.items()}
    optimizer = torch.optim.Adam(leaves.values(), lr=lr)
    with torch.no_grad():
        before = learner.evaluate(phi, held_out, 0, train=False)
    for step in range(steps):
        task = tasks.sample("train", np.arange(32 * step, 32 * (step + 1)))
        optimizer.zero_grad()
        learner.evaluate(phi, task, step).objective.mean().backward()
        torch.nn.utils.clip_grad_norm_(list(leaves.values()), 1.0)
        optimizer.step()
    with torch.no_grad():
        after = learner.evaluate(phi, held_out, 0, train=False)
    assert float(before.query.mean()) > 0.9
    assert float(after.query.mean()) < 0.5 * float(before.query.mean()), (before.query.mean(), after.query.mean())
    assert float(after.metrics["accuracy"].mean()) > 0.75


@pytest.mark.parametrize("name", ["lstm", "set transformer"])
def test_recorded_gradients_are_those_of_the_plain_computation_on_every_evaluation(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded at the first evaluation, used for the second, whose tasks and orders differ."""
    monkeypatch.setattr("metasearch.estimators.compile._inductor", lambda graph, inputs: lambda values: graph(*values))
    tasks_block, learner_block = GRADIENTS[name]
    tasks = build("task", tasks_block, "tasks", device="cpu", dtype=torch.float64)
    learner = build("learner", learner_block, "learner", spec=tasks.spec("train"))
    estimators = [
        build(
            "estimator",
            {"type": "backprop", "tasks": 2, "shard": 2},
            "",
            problem=Problem(tasks, lambda choices, split: learner, dtype=torch.float64, compile=mode),
        )
        for mode in ("always", "never")
    ]
    phi = estimators[0].problem.phi(learner.init(3))
    for seed in (5, 6):
        recorded, plain = (
            one.combine([one.measure(call) for call in one.calls(0, phi, None, seed)])[0] for one in estimators
        )
        assert recorded.value == pytest.approx(plain.value, rel=1e-10)
        for key, gradient in plain.gradient.items():
            torch.testing.assert_close(recorded.gradient[key], gradient, rtol=1e-8, atol=1e-10)
