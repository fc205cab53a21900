"""A small stored phi, as a search would leave it before its first step: for examples and tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import metasearch.learners
import metasearch.models  # noqa: F401  (these list the built-in parts)
from metasearch.artifacts import Manifest, Provenance, save
from metasearch.core.registry import build
from metasearch.core.values import TaskSpec

__all__ = ["CLASSES", "LEARNER", "stored_phi"]

CLASSES = TaskSpec("classification", (4,), 3, 3, 6)
"""Three classes of inputs with four numbers, one support and two query examples of each."""

LEARNER: Mapping[str, Any] = {
    "type": "inner_loop",
    "model": {"type": "mlp", "hidden": [8]},
    "steps": {"train": 1, "test": 3},
    "slots": {
        "initialization": {"type": "tensors"},
        "learning_rates": {"type": "fixed", "value": 0.4},
        "update_rule": {"type": "sgd"},
    },
}
"""MAML on a multilayer perceptron of eight hidden units."""


def stored_phi(
    folder: str | Path,
    *,
    learner: Mapping[str, Any] = LEARNER,
    spec: TaskSpec = CLASSES,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Writes a fresh phi of a learner and its manifest to a folder, and returns the folder.

    Args:
        folder: empty or new.
        learner: the learner's block, without ranges.
        spec: shapes of its tasks.
        config: further blocks of the experiment.
        seed: of the fresh phi.

    Raises:
        ConfigError: if the learner cannot be built.
        ArtifactError: if something else is in the folder.
    """
    phi = build("learner", learner, "learner", spec=spec).init(seed)
    slots = learner.get("slots", {})
    manifest = Manifest(
        components={name: str(settings["type"]) for name, settings in slots.items()},
        model=dict(learner.get("model", {})),
        config={**(config or {}), "learner": dict(learner)},
        provenance=Provenance(
            run="example", evaluations=0, selected_step=0, seeds={"search": seed}, validation={"L": 1.0}
        ),
        spec={name: value for name, value in vars(spec).items() if name != "loss"},
    )
    save(folder, phi, manifest)
    return Path(folder)
