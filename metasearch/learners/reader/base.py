"""What all black-box learners share: an embedding, one forward pass, and the loss on the query set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from metasearch.core import seeds as seeding
from metasearch.core.config import Config as BaseConfig
from metasearch.core.contracts import Predictor
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Batch, Losses, Phi, Task, TaskSpec, Tensors
from metasearch.learners.inner_loop import layer_seeds
from metasearch.learners.losses import loss_for, metrics_for
from metasearch.learners.reader.embedding import Embedding
from metasearch.models.initial import Initializer

__all__ = ["Reader"]

Seeds = NDArray[np.int64] | None


class Reader(ABC):
    """F_phi as one forward pass; the tensors of phi are ``embedding.*`` and ``reader.*``.

    Support and query sets are embedded apart, in training as at test, so with ``norm: batch`` in the embedding each is
    normalized by its own statistics (the queries of a task then see each other); with ``norm: running`` by moving
    averages outside training.

    Args:
        config: its settings.
        spec: shapes of the tasks.
        choices: none are looked at.

    Raises:
        UnsupportedError: for tasks that are neither classification nor regression.
        ConfigError: if the embedding cannot be built.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            embedding: network that sees the examples; None takes the inputs as they are, flattened.
            features: outputs of the embedding, where the network does not set their number itself.
        """

        embedding: Any = None
        features: PositiveInt = 64

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        if spec.kind not in ("classification", "regression"):
            hint = "; learners of type policy take these" if spec.environment is not None else ""
            raise UnsupportedError(
                "learner", f"{type(self).__name__} reads labelled examples; these tasks are of kind {spec.kind!r}{hint}"
            )
        self.config, self.spec = config, spec
        self.embedding = Embedding(config.embedding, config.features, spec)
        self.loss = loss_for(spec)

    @property
    def traceable(self) -> bool:
        """Whether ``evaluate`` is a fixed function of its tensors, so that it may be traced once and compiled."""
        return self.embedding.traceable

    @abstractmethod
    def initial(self, draw: Initializer) -> Tensors:
        """Fresh values of all tensors besides the embedding's."""

    @abstractmethod
    def evaluate(self, phi: Phi, task: Task, seed: int, *, train: bool = True, create_graph: bool = True) -> Losses:
        """Losses of a group of tasks; without inner gradients, ``create_graph`` has no effect."""

    @abstractmethod
    def read(self, phi: Phi, support: Batch) -> Predictor:
        """Reads support sets, outside training."""

    def init(self, seed: int) -> Phi:
        """A fresh phi."""
        tensors, buffers = self.embedding.init(seeding.derive(seed, "init", "embedding"))
        own = self.initial(Initializer(seeding.derive(seed, "init", "reader")))
        return Phi(
            {f"embedding.{name}": value for name, value in tensors.items()}
            | {f"reader.{name}": value for name, value in own.items()},
            {f"embedding.{name}": value for name, value in buffers.items()},
        )

    def adapt(self, phi: Phi, support: Batch, seed: int, steps: int | None = None, *, seeds: Seeds = None) -> Predictor:
        """Reads support sets ``[T, n, ...]``, once; nothing is drawn.

        Raises:
            UnsupportedError: if a number of steps is asked for.
        """
        if steps is not None:
            raise UnsupportedError(
                "steps", f"{type(self).__name__} reads the support set in one pass, without inner steps; leave it out"
            )
        return self.read(phi, support)

    def buffers(self, phi: Phi) -> Tensors:
        """The embedding's buffers ``[1, ...]`` before anything is seen."""
        return {name: value.unsqueeze(0) for name, value in phi.buffers_of("embedding").items()}

    def embed(self, phi: Phi, x: Tensor, buffers: Tensors, seeds: Seeds = None) -> tuple[Tensor, Tensors]:
        """Features of examples, and the next buffers."""
        return self.embedding(phi.part("embedding"), buffers, x, seeds)

    def embed_task(self, phi: Phi, task: Task, seed: int, *, train: bool) -> tuple[Tensor, Tensor, Tensors]:
        """Features of the support set and of the query set, and the buffers after both."""
        seeds = [layer_seeds(task, seed, part, 0) if train else None for part in ("support", "query")]
        support, buffers = self.embed(phi, task.support.x, self.buffers(phi), seeds[0])
        query, buffers = self.embed(phi, task.query.x, buffers, seeds[1])
        return support, query, buffers

    def judged(self, outputs: Tensor, task: Task, buffers: Tensors) -> Losses:
        """The losses that belong to outputs ``[T, Q, outputs]`` for the query set."""
        loss = self.loss(outputs, task.query.y).mean(-1)
        with torch.no_grad():
            metrics = metrics_for(self.spec, outputs, task.query.y)
            updates = {f"embedding.{name}": value.to(torch.float64).mean(0) for name, value in buffers.items()}
        return Losses(loss, loss, metrics, updates)
