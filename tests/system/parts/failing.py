"""Tasks and training functions that go wrong in a stated way."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from metasearch.core.values import Batch, Task
from metasearch.tasks.sinusoid import Sinusoid


class Greedy(Sinusoid):
    """Runs out of memory on more than two tasks at once."""

    def sample(self, split: str, seeds: Any) -> Task:
        if split == "train" and len(seeds) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory: tried to allocate a lot")
        return super().sample(split, seeds)


class Broken(Sinusoid):
    """Raises on a worker."""

    def sample(self, split: str, seeds: Any) -> Task:
        raise KeyError("no such drawing")


class Poisoned(Sinusoid):
    """One task in a while holds a nan."""

    def sample(self, split: str, seeds: Any) -> Task:
        task = super().sample(split, seeds)
        bad = torch.from_numpy((task.seeds % 5 == 0) & (split == "train")).to(task.query.y.dtype)
        y = torch.where(bad[:, None, None] > 0, torch.nan, task.query.y)
        return Task(task.support, Batch(task.query.x, y), task.seeds, task.info)


def sometimes(config: Mapping[str, Any], trial: Any) -> float:
    """Fails, diverges or succeeds, as its choice says."""
    if config["kind"] == "raise":
        raise ValueError("the third layer is missing")
    return float("nan") if config["kind"] == "nan" else float(config["x"])


def always(config: Mapping[str, Any], trial: Any) -> float:
    raise ValueError(f"no file at {os.sep}")
