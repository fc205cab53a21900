"""An embedding with a linear head on it, as one network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from metasearch.core.values import TaskSpec, Tensors
from metasearch.learners.reader.embedding import Embedding
from metasearch.models import functional
from metasearch.models.initial import Initializer

__all__ = ["Headed"]

PREFIX = "embedding."


class Headed:
    """A :class:`~metasearch.core.contracts.Model`: ``head(embedding(x))``.

    Parameters are named ``embedding.<its own name>``, ``head.weight`` and ``head.bias``.

    Args:
        embedding: what gives the features.
        spec: shapes of the tasks.
    """

    def __init__(self, embedding: Embedding, spec: TaskSpec) -> None:
        self.embedding, self.outputs = embedding, spec.outputs

    @property
    def traceable(self) -> bool:
        """Whether it is a fixed sequence of tensor operations."""
        return self.embedding.traceable

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        """The embedding's own values, and a Xavier head."""
        parameters, buffers = self.embedding.init(seed)
        weight = Initializer(seed).xavier_uniform(self.outputs, self.embedding.width)
        head = {"head.weight": weight, "head.bias": weight.new_zeros(self.outputs)}
        return _named(parameters) | head, _named(buffers)

    def __call__(
        self, parameters: Tensors, buffers: Tensors, x: Tensor, *, seeds: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensors]:
        """Outputs ``[T, n, outputs]`` of ``x [T, n, ...]``, and the next buffers."""
        features, after = x.flatten(2), buffers
        if self.embedding.model is not None:
            inside = _part(parameters)
            features, after = self.embedding.model(inside, _part(buffers), x, seeds=seeds)
            after = _named(after)
        return functional.linear(features, parameters["head.weight"], parameters["head.bias"]), after

    def module(self) -> nn.Module:
        """An ordinary module of this architecture, for one task."""
        module = nn.Sequential()
        module.add_module("embedding", nn.Flatten() if self.embedding.model is None else self.embedding.model.module())
        module.add_module("head", nn.Linear(self.embedding.width, self.outputs))
        return module


def _named(tensors: Tensors) -> Tensors:
    return {PREFIX + name: value for name, value in tensors.items()}


def _part(tensors: Tensors) -> Tensors:
    return {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
