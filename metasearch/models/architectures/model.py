"""Spaces of architectures as networks of the inner loop: ``model: {type: cells}`` and ``model: {type: macro}``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from metasearch.core import config
from metasearch.core.errors import UnsupportedError
from metasearch.core.registry import register
from metasearch.core.values import TaskSpec, Tensors
from metasearch.models.architectures.cells import CellNetwork
from metasearch.models.architectures.count import Size, count
from metasearch.models.architectures.macro import MacroNetwork
from metasearch.models.architectures.places import Architecture, SearchNetwork
from metasearch.models.module import ModuleModel, _Caller

__all__ = ["CellModel", "MacroModel", "SpaceModel"]


class SpaceModel(ModuleModel):
    """A space of architectures; without one of them it is the supernet, whose places are equal mixtures.

    Batch norm is torch's own, task by task. A subclass names its network.

    Args:
        config: settings.
        spec: shapes of the tasks: images.
        architecture: what stands at each place; None for all operations.

    Raises:
        UnsupportedError: if the tasks' examples are no images.
    """

    class Config(config.Config):
        """Settings.

        Args:
            stem_stride: 2 halves the images at the start.
            architecture: what stands at each place, where no slot says it; a searcher may choose it here (``edge_0_1:
                {choice: [skip_connect, nor_conv_3x3]}``), in any evaluation that takes a model.
            norm: what batch norm uses in evaluation: ``running`` statistics of training, for networks that are trained
                from their start; or those of the ``batch``, for supernets, whose operations share no statistics.
        """

        stem_stride: PositiveInt = 1
        architecture: dict[str, str] | None = None
        norm: Literal["running", "batch"] = "running"
        batching: ClassVar[str] = "loop"

    network: ClassVar[Callable[..., SearchNetwork]]
    """``network(num_classes, architecture, in_channels=..., running=..., **settings)`` builds one."""
    default: ClassVar[str]
    """The operation that stands where nothing was chosen yet."""

    def __init__(self, config: Any, spec: TaskSpec, architecture: Architecture | None = None) -> None:
        if len(spec.input_shape) != 3:
            raise UnsupportedError("model", f"needs images [channels, height, width], got {list(spec.input_shape)}")
        self.config, self.spec, self.outputs = config, spec, spec.outputs
        self.transductive = config.norm == "batch"
        self.architecture = architecture or config.architecture
        self.path: Architecture | None = self.architecture
        self._settings = {**config.model_dump(exclude={"norm", "architecture"}), "in_channels": spec.input_shape[0]}
        self._make = functools.partial(
            self.network, spec.outputs, self.architecture, running=config.norm == "running", **self._settings
        )
        self._caller = _Caller(self._fresh(0))

    @property
    def places(self) -> Mapping[str, tuple[str, ...]]:
        """The operations that can stand at each place."""
        return cast("SearchNetwork", self._caller.module).places

    def complete(self, choices: Mapping[str, Any]) -> dict[str, str]:
        """An architecture of choices; places without one take the network's default."""
        return {place: str(choices.get(place, self.default)) for place in self.places}

    def chosen(self, architecture: Architecture, *, shared: bool) -> SpaceModel:
        """The network of an architecture: with weights of its own, or run with the weights of all operations."""
        if not shared:
            return type(self)(self.config, self.spec, architecture)
        other = type(self)(self.config, self.spec)
        other.path = cast("SearchNetwork", self._caller.module).checked(architecture)
        return other

    @functools.cached_property
    def size(self) -> Size:
        """Parameters and multiplications of the architecture itself."""
        with torch.random.fork_rng(devices=[]):
            made = self.network(self.outputs, self.path or self.complete({}), **self._settings)
        return count(made, self.spec.input_shape)

    def __call__(
        self, parameters: Tensors, buffers: Tensors, x: Tensor, *, seeds: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensors]:
        """See :class:`~metasearch.core.contracts.Model`; parameters may hold ``mixture [T, places, operations]``."""
        cast("SearchNetwork", self._caller.module).path = self.path
        return super().__call__(parameters, buffers, x, seeds=seeds)

    def _exchanged(self, seed: int) -> nn.Module:
        made = self._fresh(seed)
        cast("SearchNetwork", made).path = self.path
        return made


@register("model", "cells")
class CellModel(SpaceModel):
    """Cells of four nodes with an operation on each of six edges; see :class:`CellNetwork`."""

    class Config(SpaceModel.Config):
        """Settings, besides those of all spaces.

        Args:
            channels: width of each stage.
            cells: cells in each stage.
        """

        channels: tuple[PositiveInt, ...] = Field(default=(8, 16), min_length=1)
        cells: PositiveInt = 1

    network = CellNetwork
    default = "nor_conv_3x3"


@register("model", "macro")
class MacroModel(SpaceModel):
    """Layers with a choice of block; see :class:`MacroNetwork`."""

    class Config(SpaceModel.Config):
        """Settings, besides those of all spaces.

        Args:
            channels: width of each layer.
        """

        channels: tuple[PositiveInt, ...] = Field(default=(8, 8, 16, 16), min_length=1)

    network = MacroNetwork
    default = "mb6_k5"
