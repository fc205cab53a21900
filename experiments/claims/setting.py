"""The searches that claims are measured on, and the starts that stand beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..common import setting as common
from ..common.setting import MAML, NETWORK, SINE_MAML, Plan, changed

__all__ = ["CHARACTERS", "RATES", "SINES", "STEPS", "characters", "pooled", "pretrained", "rotated", "sines"]

CHARACTERS, SINES = "Omniglot, 5-way 1-shot", "sines, 10-shot"
"""Panels."""
RATES: Mapping[str, tuple[float, ...]] = {
    CHARACTERS: (0.02, 0.05, 0.1, 0.2, 0.5),
    SINES: (0.001, 0.003, 0.01, 0.03, 0.1),
}
"""Of fine-tuning, to choose from."""
STEPS: Mapping[str, int] = {CHARACTERS: 50, SINES: 100}
"""Of fine-tuning, at most."""


def characters(plan: Plan, seed: int, *, inner: int = 1, along: str = "query") -> dict[str, Any]:
    """MAML on drawings, with a number of inner steps in training, its outer loss on query or support examples.

    The first step moves a head of zeros only; where others follow, they have a quarter of its rate.
    """
    tree = common.omniglot("maml", MAML, plan, seed, steps=800 if inner == 1 else 400)
    rates = {} if inner == 1 else {"learner__slots__learning_rates__later": 0.05}
    return changed(tree, validation=None, test=None, learner__steps=inner, learner__along=along, **rates)


def sines(plan: Plan, seed: int, *, inner: int = 1, along: str = "query") -> dict[str, Any]:
    """MAML on sinusoids, likewise."""
    tree = common.sines("maml", SINE_MAML, plan, seed, steps=3000)
    return changed(tree, validation=None, learner__steps=inner, learner__along=along)


def pretrained(panel: str, plan: Plan) -> dict[str, Any]:
    """Settings of the baseline of that name: what it takes about as long as MAML's search."""
    if panel == CHARACTERS:
        return {"steps": plan.of(1500), "batch": 128, "lr": 1e-3}
    return {"steps": plan.of(8000), "batch": 160, "lr": 1e-3}


def rotated(plan: Plan, seed: int) -> dict[str, Any]:
    """Rotation prediction on all training drawings, without their labels."""
    tree = common.omniglot(
        "rotation", {"recipe": "rotation_prediction", "model": {**NETWORK, "head": "none"}}, plan, seed, steps=1000
    )
    return changed(tree, validation=None, test=None, tasks__rotations="none", evaluation__tasks=8, evaluation__shard=8)


def pooled(plan: Plan, seed: int, size: int | None, start: Mapping[str, Any] | None) -> dict[str, Any]:
    """MAML on a number of different training tasks, from random weights or from those of another search; the best phi
    on validation tasks.
    """
    tree = common.omniglot("maml", MAML, plan, seed, steps=300)
    return changed(
        tree, tasks__pool=size, test=None, **({} if start is None else {"learner__slots__initialization__from": start})
    )
