"""Readers of sequences: how examples and labels become tokens, their order, and where the loss is taken."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.contracts import Predictor
from metasearch.core.errors import ConfigError
from metasearch.core.seeds import Draws
from metasearch.core.values import Batch, Losses, Phi, Task, TaskSpec, Tensors
from metasearch.learners.reader.base import Reader
from metasearch.learners.reader.layers import Layer
from metasearch.models.initial import Initializer

__all__ = ["SequenceReader", "instance_accuracy"]

EPSILON = 1e-5
"""What is added to variances."""
ORDER, MIXED = "reader.order", "reader.mixed"
"""Names of what is drawn: the order of the support set, and that of all examples of the episode."""


class Memory(NamedTuple):
    """What was read of a support set."""

    kept: list[Any]
    """By each layer."""
    label: Tensor
    """``[T, 1, ...]``, shown with a query."""
    origin: Tensor
    """``[T, 1, d]``, of features."""
    unit: Tensor
    """``[T, 1, 1]``, of their differences from it."""


class SequenceReader(Reader):
    """A stack of layers that reads support examples with their labels and answers each query by itself.

    A token is an example's features beside a label: a one-hot class, or the regressed values and a 1 which says that
    they are known; all zeros for no label. ``labels: paired`` shows an example with its own label, and a query with
    none; ``labels: shifted`` shows it with the label of the example before, so that a prediction can be made, and
    judged, at every place of a sequence (Hochreiter, Younger, Conwell 2001; Santoro et al. 2016, arXiv:1605.06065).

    In training the order of the support set is drawn from each task's seed. Outside training it is one fixed order for
    each size of support set, so that :meth:`adapt` and the reported figures agree; a reader whose layers know no order
    takes the set as it comes. Other shots than in training are read as longer or shorter sequences.

    The number of classes is part of the weights. ``capacity`` makes room for more of them: a phi with a capacity of 20
    serves tasks of up to 20 classes, of which labels beyond those in use are never shown and never predicted.

    Raises:
        ConfigError: if the labels must be shifted and are not, or the layers cannot do without seeing the future, or
            there are more classes than the capacity.
    """

    class Config(Reader.Config):
        """Settings, besides those of every reader.

        Args:
            labels: ``paired`` or ``shifted`` by one example.
            loss: what phi descends: the loss on the queries, each after the whole support set; or, with shifted labels,
                along the ``sequence`` of all examples of the episode in one random order.
            capacity: largest number of classes; None means that of the tasks.
            instances: with shifted labels, how many metrics ``accuracy_1``, ``accuracy_2`` ... to report: accuracy at
                the first, second ... example of a class, along that sequence.
            standardize: whether features are taken less their mean over the support set, in units of their deviation
                from it (one for all features). What all examples share says nothing about classes, and a recurrent
                reader is slow to see past it.
        """

        labels: Literal["paired", "shifted"] = "paired"
        loss: Literal["query", "sequence"] = "query"
        capacity: PositiveInt | None = None
        instances: NonNegativeInt = 0
        standardize: bool = False

    causal: ClassVar[bool] = True
    """Whether a place depends on itself and those before it only; a property where a setting decides."""
    ordered: ClassVar[bool] = True
    """Whether the order of the examples matters."""

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, spec, choices)
        classes = spec.kind == "classification"
        self.room = (config.capacity or spec.outputs) if classes else spec.outputs
        if spec.outputs > self.room:
            raise ConfigError(
                "capacity", f"{self.room} classes were learned at most, and these tasks have {spec.outputs}"
            )
        if config.labels == "paired" and (config.loss == "sequence" or config.instances):
            raise ConfigError("labels", "must be shifted for predictions along the sequence, else they would be shown")
        if config.labels == "shifted" and config.standardize:
            raise ConfigError("standardize", "needs the whole support set before its first example; use labels: paired")
        if config.labels == "shifted" and not self.causal:
            raise ConfigError("labels", "can be shifted only where the layers do not see the future; use paired")
        self.layers = self.stack(self.embedding.width + self.room + (0 if classes else 1))

    @abstractmethod
    def stack(self, inputs: int) -> list[Layer]:
        """The layers, for tokens of ``inputs`` channels."""

    def initial(self, draw: Initializer) -> Tensors:
        tensors = {
            f"layers.{index}.{name}": value
            for index, layer in enumerate(self.layers)
            for name, value in layer.init(draw).items()
        }
        weight = draw.normal(self.room, self.layers[-1].width, std=0.01)  # all answers start almost equal
        return tensors | {"head.weight": weight, "head.bias": torch.zeros(self.room)}

    def drawn(self, task: Task, seed: int) -> Tensors:
        """Orders ``[T, S]`` of the support set and, if needed, ``[T, S + Q]`` of the episode, from the tasks' seeds."""
        support, query = task.support.x.shape[1], task.query.x.shape[1]
        sizes = {ORDER: support} if self.ordered else {}
        if self._along():
            sizes[MIXED] = support + query
        drawn = {name: Draws(task.seeds, name).permutation(size) for name, size in sizes.items()}
        return {name: torch.from_numpy(order).to(task.support.x.device) for name, order in drawn.items()}

    def evaluate(self, phi: Phi, task: Task, seed: int, *, train: bool = True, create_graph: bool = True) -> Losses:
        """Losses of a group of tasks; shapes as in :class:`~metasearch.core.contracts.Learner`."""
        given = task.info if ORDER in task.info or MIXED in task.info else self.drawn(task, seed)
        support, query, buffers = self.embed_task(phi, task, seed, train=train)
        along = train and self.config.loss == "sequence"
        with torch.set_grad_enabled(torch.is_grad_enabled() and not along):
            memory = self._read(phi, support, task.support.y, given.get(ORDER) if train else None)
            found = self.judged(self._answer(phi, memory, query), task, buffers)
        if not self._along():
            return found
        with torch.set_grad_enabled(torch.is_grad_enabled() and along):
            losses, metrics = self._mixed(phi, support, query, task, given[MIXED])
        return Losses(losses if along else found.query, found.query, {**found.metrics, **metrics}, found.updates)

    def read(self, phi: Phi, support: Batch) -> Predictor:
        features, buffers = self.embed(phi, support.x, self.buffers(phi))
        return _Answers(self, phi, self._read(phi, features, support.y), buffers)

    def hidden(self, phi: Phi, tokens: Tensor) -> tuple[Tensor, list[Any]]:
        """What the last layer says at each place, ``[T, S, width]``, and what each layer keeps for queries."""
        kept = []
        for p, layer in self._parts(phi):
            tokens, one = layer.read(p, tokens)
            kept.append(one)
        return tokens, kept

    def next(self, phi: Phi, tokens: Tensor, kept: list[Any]) -> Tensor:
        """What the last layer says at each of ``[T, Q, C]`` as the next place, ``[T, Q, width]``."""
        for (p, layer), one in zip(self._parts(phi), kept, strict=True):
            tokens = layer.answer(p, tokens, one)
        return tokens

    def head(self, phi: Phi, hidden: Tensor) -> Tensor:
        """Outputs ``[T, n, outputs]``."""
        p = phi.part("reader")
        return F.linear(hidden, p["head.weight"], p["head.bias"])[..., : self.spec.outputs]

    def labels(self, y: Tensor, like: Tensor) -> Tensor:
        """Labels ``[T, n, ...]`` as channels, in the precision of ``like``."""
        if self.spec.kind == "classification":
            return F.one_hot(y, self.room).to(like.dtype)
        return torch.cat([y, torch.ones_like(y[..., :1])], -1)

    def tokens(self, features: Tensor, y: Tensor) -> Tensor:
        """Examples ``[T, n, ...]`` in their order, with their labels as the setting says."""
        labels = self.labels(y, features)
        if self.config.labels == "shifted":
            labels = F.pad(labels[:, :-1], (0, 0, 1, 0))
        return torch.cat([features, labels], -1)

    def _along(self) -> bool:
        return bool(self.config.loss == "sequence" or self.config.instances)

    def _parts(self, phi: Phi) -> list[tuple[Tensors, Layer]]:
        return [(phi.part(f"reader.layers.{index}"), layer) for index, layer in enumerate(self.layers)]

    def _read(self, phi: Phi, features: Tensor, y: Tensor, order: Tensor | None = None) -> Memory:
        size = features.shape[1]
        if order is None and self.ordered:
            order = torch.from_numpy(Draws([size], ORDER).permutation(size)).to(features.device)
        if order is not None:
            features, y = _taken(features, order), _taken(y, order)
        origin, unit = torch.zeros_like(features[:, :1]), torch.ones_like(features[:, :1, :1])
        if self.config.standardize:
            origin = features.mean(1, keepdim=True)
            unit = ((features - origin).square().mean((1, 2), keepdim=True) + EPSILON).sqrt()
            features = (features - origin) / unit
        _, kept = self.hidden(phi, self.tokens(features, y))
        last = self.labels(y[:, -1:], features)
        return Memory(kept, last if self.config.labels == "shifted" else torch.zeros_like(last), origin, unit)

    def _answer(self, phi: Phi, memory: Memory, features: Tensor) -> Tensor:
        label = memory.label.expand(-1, features.shape[1], -1)
        tokens = torch.cat([(features - memory.origin) / memory.unit, label], -1)
        return self.head(phi, self.next(phi, tokens, memory.kept))

    def _mixed(
        self, phi: Phi, support: Tensor, query: Tensor, task: Task, order: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean loss along the episode in a given order ``[T, S + Q]``, and accuracies by instance."""
        features = _taken(torch.cat([support, query], 1), order)
        y = _taken(torch.cat([task.support.y, task.query.y], 1), order)
        outputs = self.head(phi, self.hidden(phi, self.tokens(features, y))[0])
        losses = self.loss(outputs, y).mean(-1)
        if self.spec.kind != "classification":
            return losses, {}
        with torch.no_grad():
            correct = outputs.argmax(-1) == y
            return losses, instance_accuracy(correct, y, self.spec.outputs, self.config.instances)


class _Answers:
    """Answers queries ``x [T, n, ...]`` from what was read; outputs ``[T, n, outputs]``."""

    def __init__(self, reader: SequenceReader, phi: Phi, memory: Memory, buffers: Tensors) -> None:
        self._reader, self._phi, self._memory, self._buffers = reader, phi, memory, buffers

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        features, _ = self._reader.embed(self._phi, x, self._buffers)
        return self._reader._answer(self._phi, self._memory, features)


def instance_accuracy(correct: Tensor, y: Tensor, classes: int, instances: int) -> dict[str, Tensor]:
    """Accuracy at the k-th example of a class, ``accuracy_k`` ``[T]``, for k up to ``instances`` or to the end.

    Args:
        correct: ``[T, n]``, along a sequence.
        y: ``[T, n]`` classes.
        classes: how many there are.
        instances: the largest k; there are none beyond ``n / classes``.

    >>> y = torch.tensor([[0, 1, 0, 1]])
    >>> found = instance_accuracy(torch.tensor([[False, True, True, True]]), y, 2, 10)
    >>> {name: value.item() for name, value in found.items()}
    {'accuracy_1': 0.5, 'accuracy_2': 1.0}
    """
    onehot = F.one_hot(y, classes)
    number = (onehot.cumsum(1) * onehot).sum(-1)
    found = {}
    for k in range(1, min(instances, y.shape[1] // classes) + 1):
        there = (number == k).to(torch.float64)
        found[f"accuracy_{k}"] = (there * correct).sum(-1) / there.sum(-1)
    return found


def _taken(values: Tensor, order: Tensor) -> Tensor:
    """``values [T, n, ...]`` in an order ``[T, n]`` or ``[1, n]``."""
    index = order.expand(values.shape[0], -1)
    return values.gather(1, index.reshape(*index.shape, *(1,) * (values.dim() - 2)).expand_as(values))
