"""Training a network on a data set as a task: what learned optimizers practise on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasearch.core.errors import ConfigError
from metasearch.core.seeds import Draws
from metasearch.core.values import Batch, Task, TaskSpec
from metasearch.tasks.settings import SPLITS, at_split, check_split

__all__ = ["TrainingTasks", "drawn"]


class TrainingTasks:
    """A task is a fresh training run: its seed fixes the examples at hand, and (in the learner) the first weights and
    the order of minibatches.

    The support set is what is trained on, all training examples or some of them; a learner's ``batch`` draws from it
    for each step. The query set are other examples, drawn from those of the split.

    Args:
        name: of the data set, which separates its draws from others'.
        support: examples to train on, ``x`` ``[N, ...]`` and ``y`` ``[N]`` (class numbers).
        query: examples to be judged on for each of the splits train, validation and test, likewise.
        config: has ``pool`` (examples of a support set, None for all of them) and ``queries`` (a number for each
            split).
        outputs: number of classes.

    Raises:
        ConfigError: if there are fewer examples than are asked for.
    """

    def __init__(
        self,
        name: str,
        support: tuple[Tensor, Tensor],
        query: Mapping[str, tuple[Tensor, Tensor]],
        config: Any,
        outputs: int = 10,
    ) -> None:
        self.config = config
        self._name, self._support, self._query, self._outputs = name, support, query, outputs
        if config.pool is not None and config.pool > len(support[0]):
            raise ConfigError("pool", f"expected at most {len(support[0])} images to train on, got {config.pool}")
        for split, (images, _) in query.items():
            if at_split(config.queries, split) > len(images):
                raise ConfigError("queries", f"split {split!r} has {len(images)} images; ask for at most that many")

    def spec(self, split: str) -> TaskSpec:
        """Shapes of a split's tasks.

        Raises:
            ConfigError: if the split is not one of train, validation and test.
        """
        check_split(split, SPLITS)
        x, queries = self._support[0], at_split(self.config.queries, split)
        return TaskSpec("classification", tuple(x.shape[1:]), self._outputs, self.config.pool or len(x), queries)

    def sample(self, split: str, seeds: NDArray[np.int64]) -> Task:
        """One task a seed.

        Raises:
            ConfigError: if the split is not one of train, validation and test.
        """
        spec = self.spec(split)
        seeds = np.asarray(seeds, dtype=np.int64).reshape(-1)
        return Task(
            support=drawn(self._support, seeds, f"{self._name}/{split}/support", self.config.pool),
            query=drawn(self._query[split], seeds, f"{self._name}/{split}/query", spec.query),
            seeds=seeds,
        )


def drawn(images: tuple[Tensor, Tensor], seeds: NDArray[np.int64], purpose: str, n: int | None) -> Batch:
    """Different examples for each task, or all of them as a view that every task shares.

    Args:
        images: ``x`` ``[N, ...]`` and ``y`` ``[N]``.
        seeds: ``[T]``.
        purpose: separates these draws from others of the same seeds.
        n: how many for each task; None means all.
    """
    x, y = images
    if n is None:
        return Batch(x.expand(len(seeds), *x.shape), y.expand(len(seeds), -1))
    index = torch.from_numpy(Draws(seeds, purpose).choose(len(x), n)).to(x.device)
    return Batch(x[index], y[index])
