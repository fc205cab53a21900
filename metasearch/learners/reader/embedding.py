"""What a reader sees of an example: a network's features, or the bare input."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metasearch.core.values import TaskSpec, Tensors
from metasearch.models import build_model
from metasearch.models.shared import compilable

__all__ = ["Embedding"]


class Embedding:
    """Features of examples, by one network for all tasks.

    Args:
        given: the network, as for :func:`~metasearch.models.build_model`; None takes the inputs, flattened.
        features: number of outputs it is built with; one that has its own number (conv4 with ``head: none``) keeps it.
        spec: shapes of the tasks.

    Raises:
        ConfigError: if the network cannot be built.
    """

    def __init__(self, given: Any, features: int, spec: TaskSpec) -> None:
        self.model: Any = None
        self.width = math.prod(spec.input_shape)
        if given is not None:
            wanted = dataclasses.replace(spec, kind="regression", outputs=features, loss=None)
            self.model = build_model(given, wanted, "embedding")
            self.width = int(getattr(self.model, "outputs", features))

    @property
    def traceable(self) -> bool:
        """Whether it is a fixed function of its tensors."""
        return self.model is None or compilable(self.model)

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        """Fresh parameters and buffers; none for bare inputs."""
        return ({}, {}) if self.model is None else self.model.init(seed)

    def __call__(
        self, parameters: Tensors, buffers: Tensors, x: Tensor, seeds: NDArray[np.int64] | None
    ) -> tuple[Tensor, Tensors]:
        """Features ``[T, n, width]`` of ``x [T, n, ...]``, and the next buffers ``[T, ...]``.

        Args:
            parameters: without a task axis.
            buffers: ``[1, ...]`` or ``[T, ...]``.
            x: examples that are seen together, which matters to batch norm.
            seeds: ``[T]`` in training, None in evaluation.
        """
        if self.model is None:
            return x.flatten(2), buffers
        shared = {name: value.unsqueeze(0) for name, value in parameters.items()}
        features, after = self.model(shared, buffers, x, seeds=seeds)
        return features, after
