from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import metasearch.learners  # noqa: F401  (lists the learners)
from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Batch, Task, TaskSpec

SPEC = TaskSpec("classification", (1, 6, 6), 3, 4, 4)
RANDOM = {"initialization": {"type": "random"}}


def learner(architecture: dict[str, Any], choices: Any = None, model: Any = None, **slots: Any) -> Any:
    model = model or {"type": "cells", "channels": [2], "norm": "batch"}
    block = {"type": "inner_loop", "model": model, "slots": {"architecture": architecture, **slots}}
    return build("learner", block, "learner", spec=SPEC, choices=choices or {})


def task(n: int) -> Task:
    batch = Batch(torch.zeros(n, 4, 1, 6, 6), torch.zeros(n, 4, dtype=torch.int64))
    return Task(batch, batch, np.arange(n, dtype=np.int64))


def test_choices_make_the_network_and_what_is_fixed_is_not_chosen() -> None:
    choices = {"slots.architecture.edge_0_1": "none", "slots.architecture.edge_0_2": "skip_connect"}
    made = learner({"type": "chosen", "fixed": {"edge_2_3": "avg_pool_3x3"}}, choices, **RANDOM)
    assert "slots.architecture.edge_2_3" not in made.space()
    assert len(made.space()) == 5
    assert made.model.architecture == {
        "edge_0_1": "none",
        "edge_0_2": "skip_connect",
        "edge_1_2": "nor_conv_3x3",
        "edge_0_3": "nor_conv_3x3",
        "edge_1_3": "nor_conv_3x3",
        "edge_2_3": "avg_pool_3x3",
    }
    assert not any("edge_0_1" in name for name in made.adapted)


def test_values_for_parameters_that_depend_on_the_choice_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"slots\.initialization.*weights: shared"):
        learner({"type": "chosen"})
    shared = learner({"type": "chosen", "weights": "shared"}, {"slots.architecture.edge_0_1": "none"})
    other = learner({"type": "chosen", "weights": "shared"})
    assert shared.init(0).tensors.keys() == other.init(0).tensors.keys()


def test_a_mixture_is_the_softmax_of_its_logits_and_keeps_the_weightiest_operation() -> None:
    made = learner({"type": "mixed", "temperature": 0.5, "scale": 1.0})
    phi = made.init(3)
    logits = phi.tensors["architecture.logits"]
    assert logits.shape == (6, 5)
    mixture = made.begin(phi, task(2), 0)["theta"]["mixture"]
    powers = torch.exp(2 * logits)
    torch.testing.assert_close(mixture, (powers / powers.sum(-1, keepdim=True)).expand(2, 6, 5))
    found = made.slots["architecture"].derived({"logits": torch.eye(6, 5)})
    expected = ["skip_connect", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "skip_connect"]
    assert list(found.values()) == expected  # the first row's weightiest is `none`, which is left out


def test_gumbel_noise_makes_each_operation_win_as_often_as_its_weight_says() -> None:
    made = learner({"type": "mixed", "gumbel": True, "temperature": 0.1})
    phi = made.init(0)
    logits = torch.tensor([0.0, 1.0, 0.5, -1.0, 0.2]).repeat(6, 1)
    phi = phi.replace(tensors={**phi.tensors, "architecture.logits": logits})
    mixture = made.begin(phi, task(4000), 0)["theta"]["mixture"]
    won = torch.bincount(mixture.argmax(-1).flatten(), minlength=5) / mixture[..., 0].numel()
    torch.testing.assert_close(won, torch.softmax(logits[0], 0), atol=0.012, rtol=0)  # 24,000 draws: 0.003 deviation
    assert torch.equal(mixture[7:8], made.begin(phi, _only(7), 0)["theta"]["mixture"])


def _only(seed: int) -> Task:
    one = task(1)
    return Task(one.support, one.query, np.array([seed], dtype=np.int64))


@pytest.mark.parametrize(
    ("architecture", "model", "problem"),
    [
        ({"type": "chosen"}, {"type": "mlp", "hidden": [2]}, "space of architectures"),
        ({"type": "chosen", "fixed": {"edge_0_9": "none"}}, None, "edge_0_9"),
        ({"type": "chosen", "fixed": {"edge_0_1": "nothing"}}, None, "edge_0_1"),
        (
            {"type": "mixed"},
            {"type": "macro", "channels": [2], "architecture": {"layer_1": "identity"}},
            "leave one of them out",
        ),
    ],
)
def test_what_does_not_fit_is_refused(architecture: Any, model: Any, problem: str) -> None:
    with pytest.raises((ConfigError, UnsupportedError), match=problem):
        learner(architecture, model=model, **RANDOM)
