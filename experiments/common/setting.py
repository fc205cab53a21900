"""Experiments as dictionaries, small enough for one core, and what a budget makes of them.

Pictures have 20 x 20 pixels and go through the same convolutions everywhere, with batch norm on the statistics of the
batch at hand (transductive).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metasearch.trees import override

__all__ = [
    "AMPLITUDES",
    "GROUP",
    "MAML",
    "NETWORK",
    "PHASES",
    "SCALED",
    "SHEARED",
    "SINE_MAML",
    "Plan",
    "changed",
    "omniglot",
    "sines",
]

NETWORK = {"type": "conv4", "filters": 32, "stride": 2, "pool": "none", "norm": "batch"}
SINE_NETWORK = {"type": "mlp", "hidden": [40, 40]}
MAML: Mapping[str, Any] = {  # as in omniglot_maml.yaml
    "recipe": "maml",
    "steps": 1,
    "model": {**NETWORK, "head": "flatten"},
    "reduction": "sum",
    "slots": {
        "initialization": {"type": "tensors", "zero": ["head.*"]},
        "learning_rates": {"type": "fixed", "value": 0.2},
    },
}
SINE_MAML: Mapping[str, Any] = {
    "recipe": "maml",
    "steps": 1,
    "model": SINE_NETWORK,
    "slots": {"learning_rates": {"type": "fixed", "value": 0.01}},
}
GROUP = 16
"""Tasks of an outer step."""
SHEARED: Mapping[float, dict[str, Any]] = {s: {"shear": {"x": [s, s]}} for s in (0.0, 0.3, 0.6)}
SCALED: Mapping[float, dict[str, Any]] = {s: {"scale": [s, s]} for s in (0.5, 0.7, 1.0, 1.4, 2.0)}
"""Distortions of pictures, by their strength."""
AMPLITUDES: Mapping[float, list[float]] = {5.0: [0.1, 5.0], 7.5: [5.0, 7.5], 10.0: [7.5, 10.0], 15.0: [10.0, 15.0]}
PHASES: Mapping[float, list[float]] = {
    end: [math.pi * start, math.pi * end] for start, end in ((0.0, 1.0), (1.0, 1.25), (1.25, 1.5), (1.75, 2.0))
}
"""Intervals of sines by their end, the phase in units of pi; the first of each is that of training."""


@dataclass(frozen=True)
class Plan:
    """What a factor on the default budget makes of it.

    Args:
        scale: the factor.
        seeds: searches of each kind.
        memory: gigabytes that a measurement in a process of its own may take.
    """

    scale: float = 1.0
    seeds: int = 2
    memory: float = 8.0

    def of(self, count: int, least: int = 2) -> int:
        """A number of steps, episodes or evaluations."""
        return max(least, round(count * self.scale))


def omniglot(
    name: str, learner: Mapping[str, Any], plan: Plan, seed: int, *, ways: int = 5, steps: int | None = None
) -> dict[str, Any]:
    """An experiment of 1-shot tasks, with a number of outer steps in full, or else as many as 70 seconds hold."""
    budget = {"seconds": max(0.5, 70.0 * plan.scale)} if steps is None else {"steps": plan.of(steps)}
    return {
        "name": f"{name}-{ways}way",
        "tasks": {
            "type": "omniglot",
            "image_size": 20,
            "ways": ways,
            "shots": 1,
            "queries": {"train": 3, "validation": 5, "test": 15},
        },
        "learner": learner,
        "searcher": {"type": "gradient", "lr": 3e-3, "clip_norm": 10},
        "evaluation": {"type": "episodes", "estimator": "backprop", "tasks": GROUP, "shard": GROUP},
        "validation": {"every": plan.of(50), "episodes": plan.of(200), "shard": 50, "select": "accuracy"},
        "test": {"episodes": plan.of(400), "shard": 25, "baselines": ["random"]},
        "budget": budget,
        **_here(seed),
    }


def sines(name: str, learner: Mapping[str, Any], plan: Plan, seed: int, *, steps: int) -> dict[str, Any]:
    """An experiment of 10-shot sinusoids."""
    return {
        "name": f"{name}-sines",
        "tasks": {"type": "sinusoid", "shots": 10, "queries": {"train": 10, "validation": 100, "test": 100}},
        "learner": learner,
        "searcher": {"type": "gradient", "lr": 1e-3, "clip_norm": 10},
        "evaluation": {"type": "episodes", "estimator": "backprop", "tasks": GROUP, "shard": GROUP},
        "validation": {"every": plan.of(steps // 10), "episodes": plan.of(200), "shard": 100},
        "budget": {"steps": plan.of(steps)},
        **_here(seed),
    }


def changed(tree: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """An experiment with other settings; ``__`` stands for the dot of a key."""
    return dict(override(tree, {key.replace("__", "."): value for key, value in changes.items()}))


def _here(seed: int) -> dict[str, Any]:
    return {
        "execution": {"type": "inline"},
        "numerics": {"compile": "never"},  # a compilation takes as long as one of these searches
        "tracking": {"mlflow": False, "report": False},
        "seed": seed,
    }
