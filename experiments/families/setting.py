"""Who is compared, on what. All families train on tasks of the kind that they are measured on unless a part says
otherwise.
"""

from __future__ import annotations

from typing import Any

from ..common import setting as common
from ..common.setting import MAML, NETWORK, SINE_MAML, Plan

__all__ = ["FAMILIES", "LEARNERS", "SINES", "omniglot", "sines"]

SNAIL = {"recipe": "snail", "attentions": [[32, 32], [32, 32]], "filters": 32, "length": 8}
LEARNERS: dict[str, Any] = {
    "prototypical": {"recipe": "prototypical", "model": {**NETWORK, "head": "none"}},
    "snail": {**SNAIL, "embedding": {**NETWORK, "head": "flatten"}},
    "maml": MAML,
    "matching": {"recipe": "matching", "model": {**NETWORK, "head": "none"}},
}
FAMILIES = {"prototypical": "metric", "snail": "black-box", "maml": "gradient-based"}
SINES: dict[str, Any] = {"snail": SNAIL, "maml": SINE_MAML}


def omniglot(learner: str, plan: Plan, seed: int, *, ways: int = 5, steps: int | None = None) -> dict[str, Any]:
    """An experiment of 1-shot tasks (:func:`experiments.common.setting.omniglot`) for one of :data:`LEARNERS`."""
    return common.omniglot(learner, LEARNERS[learner], plan, seed, ways=ways, steps=steps)


def sines(learner: str, plan: Plan, seed: int, *, steps: int) -> dict[str, Any]:
    """An experiment of 10-shot sinusoids for one of :data:`SINES`."""
    return common.sines(learner, SINES[learner], plan, seed, steps=steps)
