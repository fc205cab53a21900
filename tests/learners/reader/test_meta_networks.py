"""Meta Networks against autograd and plain numbers, example by example."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from metasearch.core.errors import ArtifactError
from metasearch.core.registry import build
from metasearch.core.values import Batch, Phi, Task, TaskSpec
from metasearch.learners.reader.meta_networks import MetaNetworks, signed_log
from metasearch.loaded import load
from metasearch.testing.phi import stored_phi

CLASSES = TaskSpec("classification", (4,), 3, 6, 5)
VALUES = TaskSpec("regression", (4,), 2, 6, 5)
SMALL = {"type": "meta_networks", "hidden": 5, "generator": 4, "pieces": 3}


def made(spec: TaskSpec = CLASSES, **settings: Any) -> tuple[MetaNetworks, Phi]:
    built = build("learner", {**SMALL, **settings}, "learner", spec=spec, choices={})
    assert isinstance(built, MetaNetworks)
    return built, built.init(0).to("cpu", torch.float64)


def examples(spec: TaskSpec = CLASSES, n: int = 6, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(2, n, 4, generator=draw, dtype=torch.float64)
    if spec.kind == "regression":
        return Batch(x, torch.randn(2, n, 2, generator=draw, dtype=torch.float64))
    return Batch(x, (torch.arange(n) % 3).expand(2, -1))


@pytest.mark.parametrize("spec", [CLASSES, VALUES])
def test_gradients_of_examples_are_those_of_autograd(spec: TaskSpec) -> None:
    learner, phi = made(spec)
    p, support = phi.part("reader"), examples(spec)
    found = learner._gradients(p, "base", support.x, support.y, create_graph=True)
    for t in range(2):
        for s in range(6):
            leaves = [p["base.0"].clone().requires_grad_(), p["base.1"].clone().requires_grad_()]
            outputs = F.linear(torch.relu(F.linear(support.x[t, s], leaves[0])), leaves[1])
            y = support.y[t, s]
            loss = F.mse_loss(outputs, y) if spec.kind == "regression" else F.cross_entropy(outputs, y)
            for one, expected in zip(found, torch.autograd.grad(loss, leaves), strict=True):
                torch.testing.assert_close(one[t, s], expected)


def test_attention_sums_to_one_over_the_support_set() -> None:
    learner, phi = made()
    support = examples()
    memory = learner.memorize(phi, support.x, support.y, create_graph=False)
    shares = learner.attention(phi, memory, examples(n=5, seed=1).x)
    assert shares.shape == (2, 5, 6)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 5, dtype=torch.float64))


def test_an_answer_in_plain_steps() -> None:
    """Torch's own LSTM over pieces, and one mean of fast weights for each query."""
    learner, phi = made(strength=2.0)
    p, support, queries = phi.part("reader"), examples(), examples(n=5, seed=1).x
    found = learner.adapt(phi, support, 0)(queries)
    lstm = torch.nn.LSTM(2, 4, batch_first=True, dtype=torch.float64)
    lstm.load_state_dict(
        {
            "weight_ih_l0": p["task.lstm.inputs.weight"],
            "weight_hh_l0": p["task.lstm.state.weight"],
            "bias_ih_l0": p["task.lstm.bias"],
            "bias_hh_l0": torch.zeros(16, dtype=torch.float64),
        }
    )

    def example_network(g: torch.Tensor) -> torch.Tensor:
        x = signed_log(g)
        for index in (0, 1):
            x = torch.relu(x @ p[f"example.{index}.weight"].T + p[f"example.{index}.bias"])
        return (x @ p["example.2.weight"].T + p["example.2.bias"])[..., 0]

    base = learner._gradients(p, "base", support.x, support.y, create_graph=False)
    key = learner._gradients(p, "key", support.x, support.y, create_graph=False)[0]
    for t in range(2):
        pieces = torch.stack([key[t, start : start + 2].mean(0) for start in (0, 2, 4)])
        read = lstm(signed_log(pieces.reshape(3, -1)).transpose(0, 1))[0][:, -1]
        fast_key = (read @ p["task.out.weight"].T + p["task.out.bias"]).reshape(5, 4)
        layer = p["key.0"] + fast_key
        fast = [[example_network(one[t, s]) for s in range(6)] for one in base]
        for q in range(5):
            x = queries[t, q]
            cosines = [F.cosine_similarity(layer @ x, layer @ support.x[t, s], dim=0) for s in range(6)]
            shares = torch.softmax(2.0 * torch.stack(cosines), 0)
            first, second = (
                sum((share * one for share, one in zip(shares, made_, strict=True)), torch.zeros(())) for made_ in fast
            )
            hidden = torch.relu(p["base.0"] @ x) + torch.relu(first @ x)
            torch.testing.assert_close(found[t, q], p["base.1"] @ hidden + second @ hidden)


def test_the_size_and_sign_of_a_gradient() -> None:
    found = signed_log(torch.tensor([math.exp(-3.5), -math.exp(-7.0), math.exp(-9.0)], dtype=torch.float64))
    np.testing.assert_allclose(found, [[-0.5, 1.0], [-1.0, -1.0], [-1.0, math.exp(-2.0)]], rtol=1e-12)


def test_without_inner_gradients_the_same_losses_and_another_gradient() -> None:
    learner, phi = made()
    support, query = examples(), examples(n=5, seed=1)

    task = Task(support, query, np.arange(2))
    leaf = phi.tensors["reader.key.1"].requires_grad_()  # it acts through gradients only
    exact, first = (learner.evaluate(phi, task, 0, create_graph=flag).objective for flag in (True, False))
    torch.testing.assert_close(exact, first)
    assert float(torch.autograd.grad(exact.sum(), leaf)[0].abs().max()) > 0
    assert not first.requires_grad


def test_a_stored_phi_classifies_as_many_classes_as_it_was_learned_with(tmp_path: Any) -> None:
    learned = load(stored_phi(tmp_path / "phi", learner=SMALL, spec=CLASSES))
    x = examples().x[0].numpy()
    assert set(learned.classifier().fit(x, ["a", "b", "c"] * 2).predict(x)) <= {"a", "b", "c"}
    with pytest.raises(ArtifactError, match=r"another number of outputs needs new values for reader\.base\.1"):
        learned.classifier().fit(x, ["a", "b"] * 3)
