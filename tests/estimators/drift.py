"""A problem whose every truncated and full gradient has a closed form: theta moves by phi in each step.

The loss after step k is ``a (theta_0 + k phi - w)^2``, so the objective, its sum over steps, is quadratic in phi, also
where phi differs from step to step. Estimates from antithetic pairs then have no smoothing bias at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import metasearch.program  # noqa: F401  (lists the built-in parts)
from metasearch.components.rules import Block, Features, FlatRule, State
from metasearch.core.registry import build
from metasearch.core.values import Phi, Tensors
from metasearch.estimators.episodes import Problem

HORIZON = 12
PHI = 0.15


class Drift(FlatRule):
    """theta' = theta + phi."""

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        return {"drift": torch.tensor(PHI)}, {}

    def decide(
        self, values: Tensors, features: Features, state: State, step: int, block: Block
    ) -> tuple[Tensor, State]:
        return values["drift"].expand(features[0].shape), state


def problem(**settings: Any) -> Problem:
    place = {"center": 3.0, "spread": 0.2, "condition": 1.0}
    block = {"type": "quadratic", "dimensions": 1, "shots": 30, "shared": True, **place}
    tasks = build("task", block, "tasks", device="cpu", dtype=torch.float64)
    learner = {
        "type": "inner_loop",
        "model": {"type": "mlp", "hidden": []},
        "adapt": ["head.weight"],
        "steps": HORIZON,
        "objective": "sum",
        "slots": {"initialization": {"type": "random"}, "update_rule": {"type": Drift}},
        **settings,
    }
    made = build("learner", learner, "learner", spec=tasks.spec("train"))
    return Problem(tasks, lambda choices, split: made, dtype=torch.float64)


def phi() -> Phi:
    return Phi({"update_rule.drift": torch.tensor(PHI, dtype=torch.float64)})


def estimator(case: Problem, **settings: Any) -> Any:
    return build("estimator", {"tasks": 1, "shard": 1, **settings}, "", problem=case)


def slope(estimate: Any) -> float:
    return float(estimate.gradient["update_rule.drift"])


def losses(
    case: Problem, seeds: Any, seed: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """a, theta_0 and w of each task."""
    task = case.sample("train", seeds)
    learner: Any = case.learner({}, "train")
    theta = learner.begin(phi(), task, seed)["theta"]["head.weight"].flatten().numpy()
    return task.support.x.square().mean((1, 2)).numpy(), theta, task.info["solution"][:, 0].numpy()


def exact(case: Problem, seeds: Any, seed: int, *, truncation: int = HORIZON) -> float:
    """Mean over tasks of the derivative of the objective, states at the start of a truncation taken as constants."""
    a, theta, w = losses(case, seeds, seed)
    total = 0.0
    for k in range(1, HORIZON + 1):
        total += float((2 * a * (theta + k * PHI - w) * (k - (k - 1) // truncation * truncation)).mean())
    return total


def along(made: Any, evaluations: int, seed: int) -> tuple[list[Any], Any]:
    """Estimates of evaluations that follow each other, and the first one's call."""
    carried, found, first = None, [], None
    for index in range(evaluations):
        calls = made.calls(index, phi(), carried, seed * 1000 + index)
        first = first or calls[0]
        estimate, carried = made.combine([made.measure(call) for call in calls])
        found.append(estimate)
    return found, first
