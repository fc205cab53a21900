"""The network of a metric learner: one set of weights for all tasks, and all examples of a shard in one batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metasearch.core import seeds as seeding
from metasearch.core.errors import ArtifactError, ConfigError
from metasearch.core.values import Phi, TaskSpec, Tensors
from metasearch.models import build_model
from metasearch.models.shared import compilable

__all__ = ["Embedding", "shared"]

CHUNK = 256
"""Examples that go through the network at a time where no gradient is taken: their activations stay in the cache, and
a support set may be of any size."""

Seeds = NDArray[np.int64]


class Embedding:
    """A network as a map from examples to vectors; its weights are a slot of phi.

    In training, layers that normalize by a batch see either the support and query examples of one task together
    (``norm_over: episode``), or each of the two sets by itself (``norm_over: set``); never those of several tasks.
    In evaluation a network that keeps running statistics treats every example by itself; one that does not normalizes
    by the same batches as in training, so its figures are transductive.

    Args:
        model: the network, as :func:`~metasearch.models.build_model` takes it.
        spec: shapes of the tasks.
        features: outputs that are asked of the network; one whose outputs are its last maps has as many as those.
        norm_over: ``episode`` or ``set``, see above.
        slot: its name in phi.

    Raises:
        ConfigError: if the network cannot be built, or has another number of outputs.
    """

    def __init__(
        self,
        model: Any,
        spec: TaskSpec,
        features: int = 64,
        norm_over: Literal["episode", "set"] = "episode",
        slot: str = "embedding",
    ) -> None:
        self.slot, self.norm_over = slot, norm_over
        self.model: Any = build_model(model, dataclasses.replace(spec, kind="embedding", outputs=features, loss=None))
        self.transductive = bool(getattr(self.model, "transductive", True))
        self.traceable = compilable(self.model)
        self.features = self._probe(spec.input_shape)
        self.maps: tuple[int, int, int] | None = getattr(self.model, "maps", None)

    def _probe(self, input_shape: tuple[int, ...]) -> int:
        """The number of outputs, found by a forward pass; notes whether running statistics are kept."""
        parameters, buffers = self.model.init(0)
        self.running = any(name.endswith("running_mean") for name in buffers)
        try:
            with torch.no_grad():
                y, _ = self.model(shared(parameters), shared(buffers), torch.zeros(1, 2, *input_shape))
        except ConfigError as error:
            raise ConfigError("features", f"an embedding must know its size: {error.problem}, or features") from error
        return int(y.shape[-1])

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        """Fresh tensors and buffers, under the slot's name."""
        parameters, buffers = self.model.init(seeding.derive(seed, "init", self.slot))
        return self._named(parameters), self._named(buffers)

    def pair(self, phi: Phi, support: Tensor, query: Tensor, seeds: Seeds) -> tuple[Tensor, Tensor, Tensors]:
        """Vectors of both sets in training, and the buffers' next values.

        Args:
            phi: its slot is read.
            support: ``[T, n, ...]``.
            query: ``[T, m, ...]``.
            seeds: ``[T]``, for layers that draw.

        Returns:
            ``[T, n, features]``, ``[T, m, features]``, and means over the tasks by name in phi.
        """
        values, state = shared(phi.part(self.slot)), shared(phi.buffers_of(self.slot))
        if self.norm_over == "episode":
            z, state = self.model(values, state, torch.cat([support, query], 1), seeds=seeds)
            first, second = z[:, : support.shape[1]], z[:, support.shape[1] :]
        else:
            first, state = self.model(values, state, support, seeds=seeds)
            second, state = self.model(values, state, query, seeds=seeds)
        return first, second, self.updates(state)

    def single(self, phi: Phi, x: Tensor, seeds: Seeds) -> tuple[Tensor, Tensors]:
        """Vectors of one set in training, and the buffers' next values."""
        z, state = self.model(shared(phi.part(self.slot)), shared(phi.buffers_of(self.slot)), x, seeds=seeds)
        return z, self.updates(state)

    def beside(self, phi: Phi, support: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """In evaluation: a function from query examples ``[T, m, ...]`` to the vectors of both sets."""
        if not self.transductive or self.norm_over == "set":
            z = self(phi, support)
            return lambda query: (z, self(phi, query))

        def together(query: Tensor) -> tuple[Tensor, Tensor]:
            both = self(phi, torch.cat([support, query], 1))
            return both[:, : support.shape[1]], both[:, support.shape[1] :]

        return together

    def __call__(self, phi: Phi, x: Tensor) -> Tensor:
        """Vectors ``[T, n, features]`` of ``x [T, n, ...]`` in evaluation."""
        values, state = shared(phi.part(self.slot)), shared(phi.buffers_of(self.slot))
        if torch.is_grad_enabled():
            y: Tensor = self.model(values, state, x)[0]
            return y
        if self.transductive:
            return torch.cat([self.model(values, state, one)[0] for one in x.split(1)])
        parts = [self.model(values, state, part.unsqueeze(0))[0][0] for part in x.flatten(0, 1).split(CHUNK)]
        return torch.cat(parts).unflatten(0, x.shape[:2])

    def updates(self, state: Tensors) -> Tensors:
        """Next values of buffers ``[T, ...]`` as phi takes them: means over the tasks, by name in phi."""
        with torch.no_grad():
            return self._named({name: value.to(torch.float64).mean(0) for name, value in state.items()})

    def module(self, phi: Phi) -> nn.Module:
        """An ordinary module with phi's values in it, in evaluation mode.

        Raises:
            ArtifactError: if the network offers none.
        """
        if not hasattr(self.model, "module"):
            raise ArtifactError(f"{type(self.model).__name__} has no module() that makes an ordinary nn.Module of it")
        values = phi.part(self.slot)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            made: nn.Module = self.model.module().to(next(iter(values.values())).dtype)
            targets = {**dict(made.named_parameters()), **dict(made.named_buffers())}
            for name, value in {**values, **phi.buffers_of(self.slot)}.items():
                targets[name].copy_(value)
        return made.eval()

    def _named(self, tensors: Mapping[str, Tensor]) -> Tensors:
        return {f"{self.slot}.{name}": value for name, value in tensors.items()}


def shared(tensors: Mapping[str, Tensor]) -> Tensors:
    """Parameters or buffers as a model takes those of all tasks: ``[1, ...]``."""
    return {name: value.unsqueeze(0) for name, value in tensors.items()}
