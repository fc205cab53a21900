"""Who is compared, on what: experiments as dictionaries, small enough for one core, and what a budget makes of them.

All three families see pictures of 20 x 20 pixels through the same convolutions, with batch norm on the statistics of
the batch at hand (transductive), and train on tasks of the kind that they are measured on unless a part says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metasearch.trees import override

__all__ = ["FAMILIES", "LEARNERS", "SINES", "Plan", "changed", "omniglot", "sines"]

NETWORK = {"type": "conv4", "filters": 32, "stride": 2, "pool": "none", "norm": "batch"}
SINE_NETWORK = {"type": "mlp", "hidden": [40, 40]}
SNAIL = {"recipe": "snail", "attentions": [[32, 32], [32, 32]], "filters": 32, "length": 8}
MAML = {"recipe": "maml", "steps": 1}
LEARNERS: dict[str, dict[str, Any]] = {
    "prototypical": {"recipe": "prototypical", "model": {**NETWORK, "head": "none"}},
    "snail": {**SNAIL, "embedding": {**NETWORK, "head": "flatten"}},
    "maml": {  # as in omniglot_maml.yaml
        **MAML,
        "model": {**NETWORK, "head": "flatten"},
        "reduction": "sum",
        "slots": {
            "initialization": {"type": "tensors", "zero": ["head.*"]},
            "learning_rates": {"type": "fixed", "value": 0.2},
        },
    },
    "matching": {"recipe": "matching", "model": {**NETWORK, "head": "none"}},
}
FAMILIES = {"prototypical": "metric", "snail": "black-box", "maml": "gradient-based"}
SINES: dict[str, dict[str, Any]] = {
    "snail": SNAIL,
    "maml": {**MAML, "model": SINE_NETWORK, "slots": {"learning_rates": {"type": "fixed", "value": 0.01}}},
}
GROUP = 16
"""Tasks of an outer step."""


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


def omniglot(learner: str, plan: Plan, seed: int, *, ways: int = 5, steps: int | None = None) -> dict[str, Any]:
    """An experiment of 1-shot tasks, with a number of outer steps in full, or else as many as 70 seconds hold."""
    budget = {"seconds": max(0.5, 70.0 * plan.scale)} if steps is None else {"steps": plan.of(steps)}
    return {
        "name": f"{learner}-{ways}way",
        "tasks": {
            "type": "omniglot",
            "image_size": 20,
            "ways": ways,
            "shots": 1,
            "queries": {"train": 3, "validation": 5, "test": 15},
        },
        "learner": LEARNERS[learner],
        "searcher": {"type": "gradient", "lr": 3e-3, "clip_norm": 10},
        "evaluation": {"type": "episodes", "estimator": "backprop", "tasks": GROUP, "shard": GROUP},
        "validation": {"every": plan.of(50), "episodes": plan.of(200), "shard": 50, "select": "accuracy"},
        "test": {"episodes": plan.of(400), "shard": 25, "baselines": ["random"]},
        "budget": budget,
        **_here(seed),
    }


def sines(learner: str, plan: Plan, seed: int, *, steps: int) -> dict[str, Any]:
    """An experiment of 10-shot sinusoids."""
    return {
        "name": f"{learner}-sines",
        "tasks": {"type": "sinusoid", "shots": 10, "queries": {"train": 10, "validation": 100, "test": 100}},
        "learner": SINES[learner],
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
