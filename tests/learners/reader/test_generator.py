"""The network that writes networks: in plain numbers, and as what it hands back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metasearch.core.errors import UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Batch, Phi, Task, TaskSpec
from metasearch.learners.reader.generator import WeightGenerator
from metasearch.loaded import load
from metasearch.testing.phi import stored_phi

CLASSES = TaskSpec("classification", (4,), 3, 6, 6)
VALUES = TaskSpec("regression", (1,), 2, 5, 4)


def made(spec: TaskSpec = CLASSES, **settings: Any) -> tuple[WeightGenerator, Phi]:
    block = {"type": "weight_generator", "hidden": 5, "code": 4, **settings}
    built = build("learner", block, "learner", spec=spec, choices={})
    assert isinstance(built, WeightGenerator)
    return built, built.init(0).to("cpu", torch.float64)


def episode(spec: TaskSpec = CLASSES, tasks: int = 2) -> Task:
    draw = torch.Generator().manual_seed(0)

    def batch(n: int) -> Batch:
        x = torch.randn(tasks, n, *spec.input_shape, generator=draw, dtype=torch.float64)
        if spec.kind == "regression":
            return Batch(x, torch.randn(tasks, n, spec.outputs, generator=draw, dtype=torch.float64))
        return Batch(x, (torch.arange(n) % spec.outputs).expand(tasks, -1))

    return Task(batch(spec.support), batch(spec.query), np.arange(tasks))


def two_layers(p: dict[str, Any], name: str, x: np.ndarray) -> np.ndarray:
    hidden = np.maximum(p[f"reader.{name}.0.weight"] @ x + p[f"reader.{name}.0.bias"], 0)
    return p[f"reader.{name}.1.weight"] @ hidden + p[f"reader.{name}.1.bias"]


def test_a_head_is_written_class_by_class_from_the_means_of_codes() -> None:
    learner, phi = made()
    task = episode()
    p = {name: value.numpy() for name, value in phi.tensors.items()}
    outputs = learner.adapt(phi, task.support, 0)(task.query.x).numpy()
    for t in range(2):
        codes = [np.maximum(two_layers(p, "encoder", x), 0) for x in task.support.x[t].numpy()]
        for c in range(3):
            mine = np.mean([code for code, y in zip(codes, task.support.y[t], strict=True) if y == c], axis=0)
            row = two_layers(p, "writer", np.concatenate([mine, np.mean(codes, axis=0)]))
            expected = task.query.x[t].numpy() @ row[:-1] / 2.0 + row[-1]  # 2 is the root of four inputs
            np.testing.assert_allclose(outputs[t, :, c], expected, rtol=1e-10)


def test_a_whole_network_is_written_as_offsets_to_learned_weights() -> None:
    learner, phi = made(VALUES, network={"type": "mlp", "hidden": [3], "activation": "tanh"})
    task = episode(VALUES)
    p = {name: value.numpy() for name, value in phi.tensors.items()}
    outputs = learner.adapt(phi, task.support, 0)(task.query.x).numpy()
    for t in range(2):
        pairs = np.concatenate([task.support.x[t].numpy(), task.support.y[t].numpy()], 1)
        code = np.mean([np.maximum(two_layers(p, "encoder", pair), 0) for pair in pairs], axis=0)
        flat = two_layers(p, "writer", code)
        theta, used = {}, 0
        for name, shape in {"layers.0.weight": (3, 1), "layers.0.bias": (3,)}.items():
            size = int(np.prod(shape))
            theta[name] = p[f"reader.start.{name}"] + flat[used : used + size].reshape(shape)
            used += size
        for name, shape in {"head.weight": (2, 3), "head.bias": (2,)}.items():
            size = int(np.prod(shape))
            theta[name] = p[f"reader.start.{name}"] + flat[used : used + size].reshape(shape)
            used += size
        hidden = np.tanh(task.query.x[t].numpy() @ theta["layers.0.weight"].T + theta["layers.0.bias"])
        np.testing.assert_allclose(outputs[t], hidden @ theta["head.weight"].T + theta["head.bias"], rtol=1e-10)


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        (CLASSES, {"embedding": {"type": "mlp", "hidden": [6]}, "features": 5}),
        (CLASSES, {}),
        (CLASSES, {"network": {"type": "mlp", "hidden": [6]}}),
        (VALUES, {"network": {"type": "mlp", "hidden": [6]}}),
        (VALUES, {"embedding": {"type": "mlp", "hidden": [6]}}),
        (TaskSpec("classification", (1, 8, 8), 3, 6, 6), {"embedding": {"type": "conv4", "filters": 4, "blocks": 2}}),
        (
            TaskSpec("classification", (1, 8, 8), 3, 6, 6),
            {"embedding": {"type": "conv4", "filters": 4, "blocks": 2, "norm": "running", "head": "none"}},
        ),
    ],
)
def test_what_adapt_hands_back_is_a_module_that_computes_the_same(
    tmp_path: Path, spec: TaskSpec, settings: dict[str, Any]
) -> None:
    block = {"type": "weight_generator", "hidden": 5, "code": 4, **settings}
    learned = load(stored_phi(tmp_path / "phi", learner=block, spec=spec))
    task = episode(spec)
    network = learned.adapt(task.support.x[0], task.support.y[0].float() if spec is VALUES else task.support.y[0])
    module = network.module().eval()
    assert isinstance(module, torch.nn.Module)
    x = task.query.x[0].float()
    with torch.no_grad():
        torch.testing.assert_close(module(x), network(x))
    assert set(network.parameters) == {name for name, _ in module.named_parameters()}


def test_the_order_of_the_support_set_and_the_number_of_classes_and_shots_do_not_matter() -> None:
    learner, phi = made(embedding={"type": "mlp", "hidden": [6]})
    task = episode()
    before = learner.adapt(phi, task.support, 0)(task.query.x)
    turned = Batch(task.support.x.flip(1), task.support.y.flip(1))
    torch.testing.assert_close(learner.adapt(phi, turned, 0)(task.query.x), before)
    many = TaskSpec("classification", (4,), 7, 21, 7)
    other, fresh = made(many, embedding={"type": "mlp", "hidden": [6]})
    assert {name: one.shape for name, one in fresh.tensors.items()} == {
        name: one.shape for name, one in phi.tensors.items()
    }
    assert torch.isfinite(other.evaluate(phi, episode(many), 0, train=False).query).all()


def test_a_class_without_an_example_gets_finite_weights() -> None:
    learner, phi = made()
    task = episode()
    none = Batch(task.support.x, task.support.y.clamp(max=1))
    assert torch.isfinite(learner.adapt(phi, none, 0)(task.query.x)).all()


def test_a_written_network_with_moving_averages_is_refused() -> None:
    spec = TaskSpec("classification", (1, 8, 8), 3, 6, 6)
    with pytest.raises(UnsupportedError, match=r"network: cannot have buffers.*use norm: batch"):
        made(spec, network={"type": "conv4", "blocks": 2, "norm": "running"})
