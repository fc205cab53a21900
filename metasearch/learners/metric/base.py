"""What metric learners have in common: embed support and query, compare, and judge the comparison."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from metasearch.core import seeds as seeding
from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ArtifactError, UnsupportedError
from metasearch.core.values import Batch, Losses, Phi, Task, TaskSpec, Tensors
from metasearch.learners.losses import loss_for, metrics_for
from metasearch.learners.metric.embedding import Embedding, Seeds

__all__ = ["Compared", "MetricConfig", "MetricLearner", "class_sums"]


class MetricConfig(BaseConfig):
    """Settings of every metric learner.

    Args:
        model: the embedding network: ``type`` and its settings, a name, or an ``nn.Module`` class or object of yours.
            ``conv4`` with ``head: none`` gives its last maps, other networks have ``features`` outputs. Its own setting
            ``norm`` says which statistics batch norm uses at test: those of the batch at hand, or running ones.
        features: number of outputs of a network that has no number of its own.
        norm_over: what one batch is to a norm layer on batch statistics: the support and query examples of an
            ``episode`` together, or each ``set`` by itself.
    """

    model: Any
    features: PositiveInt = 64
    norm_over: Literal["episode", "set"] = "episode"


class MetricLearner(ABC):
    """Embeds both sets of a task and compares each query example with the support set.

    A leaf says what scores a comparison has, and may say how they become outputs and losses. The embedding does not
    depend on the number of classes or examples, so these may differ between training and test.

    Args:
        config: its settings.
        spec: shapes of the tasks.
        choices: none are looked at.

    Raises:
        UnsupportedError: for tasks that are not classification.
        ConfigError: if the network cannot be built.
    """

    name: ClassVar[str]
    """Its name in an experiment, for messages."""
    takes_unlabelled = False
    """Whether it learns from support examples without a label, too, whose label is then -1."""

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        if spec.kind != "classification":
            use = "policy" if spec.environment is not None else "inner_loop"
            raise UnsupportedError(
                "learner",
                f"{self.name} tells classes apart by examples of each and needs classification tasks, got "
                f"{spec.kind!r}; learners of type {use} take these",
            )
        self.config = config
        self.spec = spec
        self.embedding = Embedding(config.model, spec, config.features, config.norm_over)

    @abstractmethod
    def compare(
        self, phi: Phi, support: Tensor, labels: Tensor, query: Tensor, seeds: Seeds | None
    ) -> tuple[Tensor, Tensors]:
        """Scores ``[T, m, ...]`` of query vectors ``[T, m, features]``, and updates of phi's buffers.

        Args:
            phi: the learner's own slots are read.
            support: vectors ``[T, n, features]``.
            labels: of the support examples, ``[T, n]``.
            query: vectors.
            seeds: ``[T]`` in training, else None.
        """

    def embed(self, phi: Phi, support: Tensor, query: Tensor, seeds: Seeds) -> tuple[Tensor, Tensor, Tensors]:
        """In training: the vectors of both sets, ``[T, n or m, features]``, and updates of phi's buffers."""
        return self.embedding.pair(phi, support, query, seeds)

    def beside(self, phi: Phi, support: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """In evaluation: a function from query examples ``[T, m, ...]`` to the vectors of both sets."""
        return self.embedding.beside(phi, support)

    def support(self, task: Task, *, train: bool) -> Batch:
        """What it learns of a task from."""
        return task.support

    def own(self, seed: int) -> tuple[Tensors, Tensors]:
        """Fresh tensors and buffers besides those of the embedding, by name in phi."""
        return {}, {}

    def outputs(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Logits ``[T, m, ways]`` of scores."""
        return scores

    def losses(self, scores: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """``[T]``, of scores, support labels and query labels ``[T, m]``: the cross-entropy of the outputs."""
        return loss_for(self.spec)(self.outputs(scores, labels), targets).mean(-1)

    def metrics(self, scores: Tensor, labels: Tensor, targets: Tensor, *, train: bool) -> Tensors:
        """``accuracy`` in [0, 1]."""
        return metrics_for(self.spec, self.outputs(scores, labels), targets)

    @property
    def traceable(self) -> bool:
        """Whether ``evaluate`` is a fixed function of its tensors, so that it may be traced once and compiled."""
        return self.embedding.traceable

    @property
    def batch_norm(self) -> str:
        """What norm layers use at test, for the record."""
        if not self.embedding.transductive:
            return "running statistics" if self.embedding.running else "none"
        return f"statistics of the {self.embedding.norm_over} at hand (transductive)"

    def init(self, seed: int) -> Phi:
        """A fresh phi: the embedding, and what the comparison learns."""
        tensors, buffers = self.embedding.init(seed)
        further, state = self.own(seed)
        return Phi({**tensors, **further}, {**buffers, **state})

    def evaluate(self, phi: Phi, task: Task, seed: int, *, train: bool = True, create_graph: bool = True) -> Losses:
        """Losses and metrics of the query sets; shapes as in :class:`~metasearch.core.contracts.Learner`."""
        given, targets = self.support(task, train=train), task.query.y
        labels = given.y
        if train:
            key = np.int64(seeding.derive(seed, "embedding"))
            seeds = np.asarray(np.bitwise_xor(task.seeds, key), dtype=np.int64)
            support, query, updates = self.embed(phi, given.x, task.query.x, seeds)
            scores, further = self.compare(phi, support, labels, query, seeds)
            updates = {**updates, **further}
        else:
            scores, updates = self.adapt(phi, given, seed).scores(task.query.x), {}
        loss = self.losses(scores, labels, targets)
        with torch.no_grad():
            metrics = self.metrics(scores, labels, targets, train=train)
        return Losses(loss, loss, metrics, updates)

    def adapt(
        self, phi: Phi, support: Batch, seed: int, steps: int | None = None, *, seeds: Seeds | None = None
    ) -> Compared:
        """Remembers support sets ``[T, n, ...]``, with any number of examples of each class.

        Raises:
            UnsupportedError: for a number of steps: there is nothing to step.
        """
        if steps is not None:
            raise UnsupportedError("steps", f"{self.name} has no inner steps; leave it out")
        return Compared(self, phi, support)

    def head(self, phi: Phi, support: Tensor, labels: Tensor) -> nn.Linear:
        """A linear layer on the embedding that gives the outputs up to what is equal for all classes.

        Args:
            phi: the learner's own slots are read.
            support: vectors of one task, ``[1, n, features]``.
            labels: ``[1, n]``.

        Raises:
            ArtifactError: if there is none.
        """
        raise ArtifactError(
            f"what {self.name} says of an example is no linear function of its embedding, so no ordinary module "
            "computes it; use the classifier, or .embedding() of the loaded phi for the network"
        )


class Compared:
    """Support sets to compare with; call it on ``x [T, m, ...]`` for logits ``[T, m, ways]``."""

    def __init__(self, learner: MetricLearner, phi: Phi, support: Batch) -> None:
        self.learner, self.phi, self.labels = learner, phi, support.y
        self.embed, self._support = learner.beside(phi, support.x), support.x

    def scores(self, x: Tensor) -> Tensor:
        """The learner's own scores of query examples."""
        support, query = self.embed(x)
        return self.learner.compare(self.phi, support, self.labels, query, None)[0]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self.learner.outputs(self.scores(x), self.labels)

    @torch.no_grad()
    def module(self) -> nn.Module:
        """An ordinary module that tells the classes of the (one) task apart: ``embedding``, then a linear ``head``.

        Raises:
            ArtifactError: if the learner is none, or its embedding of one example depends on the others of a batch.
        """
        embedding = self.learner.embedding
        if embedding.transductive:
            raise ArtifactError(
                "this network normalizes by the batch at hand, support set included, so no ordinary module computes "
                "what it does; use the classifier, or learn with norm: running"
            )
        head = self.learner.head(self.phi, embedding(self.phi, self._support), self.labels)
        body = embedding.module(self.phi).to(head.weight)
        return nn.Sequential(OrderedDict(embedding=body, head=head)).eval()


def class_sums(values: Tensor, labels: Tensor, ways: int) -> tuple[Tensor, Tensor]:
    """``[T, ways, d]`` and ``[T, ways]``: sums of ``values [T, n, d]`` over a class's examples, and their number."""
    members = F.one_hot(labels, ways).to(values.dtype)
    return members.mT @ values, members.sum(1)
