"""A search for an embedding from its start to a classifier, with other tasks at test than in training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metasearch as ms
from metasearch.core.errors import UnsupportedError
from metasearch.resolution import resolve

TREE: dict[str, Any] = {
    "name": "tiny-prototypes",
    "tasks": {
        "type": "omniglot",
        "image_size": 8,
        "ways": {"train": 8, "validation": 3, "test": 3},
        "shots": {"train": 1, "test": 2},
        "queries": 2,
    },
    "learner": {"recipe": "prototypical", "model": {"filters": 4, "blocks": 2}},
    "searcher": {"type": "gradient", "lr": 0.01, "schedule": "step", "decay_every": 10},
    "evaluation": {"tasks": 4, "shard": 2},
    "validation": {"every": 10, "episodes": 20, "select": "accuracy"},
    "test": {"episodes": 60, "shard": 20, "baselines": ["random", "nearest_neighbour"]},
    "budget": {"steps": 30},
    "execution": {"type": "inline"},
    "numerics": {"compile": "never"},
    "tracking": {"mlflow": False, "report": False},
}


def test_an_embedding_is_searched_for_stored_and_used(tmp_path: Path) -> None:
    outcome = ms.run(TREE, runs=tmp_path)
    assert outcome.results is not None
    test, random = outcome.results["test"], outcome.results["baselines"]["random"]
    assert test["L"] < random["L"] - random["L_ci95"]
    assert test["accuracy"] > 1 / 3 + test["accuracy_ci95"]
    assert outcome.results["protocol"]["batch_norm"] == "running statistics"
    learned = ms.load(outcome.phi_path)
    means = learned.phi.buffers["embedding.blocks.0.norm.running_mean"]
    assert means.abs().max() > 0.01
    assert ms.evaluate(learned, episodes=60, shard=20)["accuracy"] == test["accuracy"]
    assert ms.evaluate(learned, tasks={"ways": 7}, episodes=4)["outputs"] == 7
    pictures = np.random.default_rng(0).random((6, 8, 8), dtype=np.float32)
    few = learned.classifier().fit(pictures, list("abcdab"))
    assert few.predict_proba(pictures).shape == (6, 4)
    assert learned.embedding()(torch.from_numpy(pictures).unsqueeze(1)).shape == (6, 16)


def test_regression_tasks_are_refused_before_anything_starts() -> None:
    tree = {**TREE, "tasks": {"type": "sinusoid"}, "learner": {"type": "prototypical", "model": {"type": "mlp"}}}
    with pytest.raises(UnsupportedError, match=r"learner: prototypical .*needs classification tasks, got 'regression'"):
        resolve({**tree, "evaluation": {"estimator": "backprop"}})
