"""Which network is trained: the architecture slot, for models that are spaces of architectures (cells, macro)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from metasearch.components.base import Component, Context
from metasearch.core import seeds as seeding
from metasearch.core.config import Config as BaseConfig
from metasearch.core.contracts import Model
from metasearch.core.errors import ConfigError, UnsupportedError, nearest
from metasearch.core.seeds import Draws
from metasearch.core.space import Choice, Space
from metasearch.core.values import Task, Tensors
from metasearch.models.architectures.model import SpaceModel

__all__ = ["ChosenArchitecture", "MixedArchitecture", "SpaceComponent"]


class SpaceComponent(Component):
    """What components of architectures have in common.

    Raises:
        UnsupportedError: if the model is no space of architectures.
    """

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        if not isinstance(context.model, SpaceModel):
            kind = type(context.model).__name__
            raise UnsupportedError("", f"needs a model that is a space of architectures (cells, macro), not {kind}")
        if context.model.architecture is not None:
            raise ConfigError("", "chooses what model.architecture has set already; leave one of them out")
        self.model = context.model


class ChosenArchitecture(SpaceComponent):
    """One operation for each place, chosen by a searcher; places that nobody chose take the network's default.

    With weights of its own, an architecture is trained from its start; its parameters then differ from one to the next,
    so that they cannot be part of phi. With shared ones, all architectures are parts of one supernet, whose weights are
    learned beside (Pham et al. 2018, arXiv 1802.03268).
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            weights: ``own``, or ``shared`` with all other architectures.
            fixed: operations of places that are set by hand.
        """

        weights: Literal["own", "shared"] = "own"
        fixed: dict[str, str] = Field(default_factory=dict)

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        for place, operation in config.fixed.items():
            if place not in self.model.places:
                raise ConfigError(f"fixed.{place}", f"is no place; {nearest(place, self.model.places)}")
            if operation not in self.model.places[place]:
                raise ConfigError(f"fixed.{place}", nearest(operation, self.model.places[place]))

    @property
    def moves_shapes(self) -> bool:
        return bool(self.config.weights == "own")

    def space(self) -> Space:
        """The operations of each place that is not fixed."""
        places = self.model.places
        return Space({place: Choice(names) for place, names in places.items() if place not in self.config.fixed})

    @property
    def architecture(self) -> dict[str, str]:
        """The operation of each place."""
        return self.model.complete({**self.context.choices, **self.config.fixed})

    def network(self, model: Model) -> Model:
        return cast("SpaceModel", model).chosen(self.architecture, shared=self.config.weights == "shared")


class MixedArchitecture(SpaceComponent):
    """Every place is a mixture of its operations, whose weights are learned by gradient: DARTS.

    The weights of a place are softmax((logits + g) / temperature); the logits are part of phi. Without noise g = 0:
    Liu, Simonyan, Yang 2019, arXiv 1806.09055, equation 2. With it, g is drawn from Gumbel(0, 1), anew for each
    evaluation of a task: Jang, Gu, Poole 2017, arXiv 1611.01144, equation 2 (there for a categorical variable).
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            temperature: small ones make one operation outweigh the others.
            gumbel: add noise to the logits.
            scale: standard deviation of the logits' initial values.
            exclude: operations that :meth:`MixedArchitecture.derived` leaves out.
        """

        temperature: PositiveFloat = 1.0
        gumbel: bool = False
        scale: float = Field(default=1e-3, ge=0.0)
        exclude: tuple[str, ...] = ("none",)

    draws = True

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        places = self.model.places
        width = max(map(len, places.values()))
        drawn = Draws([seeding.derive(seed, "logits")]).normal(len(places) * width)[0]
        logits = torch.from_numpy(self.config.scale * drawn).reshape(len(places), width)
        return {"logits": logits.to(torch.get_default_dtype())}, {}

    def theta(self, values: Tensors, theta: Tensors, task: Task, seed: int) -> Tensors:
        logits = values["logits"].expand(len(task), *values["logits"].shape)
        if self.config.gumbel:
            key = np.int64(seeding.derive(seed, "gumbel"))
            uniform = torch.from_numpy(Draws(np.bitwise_xor(task.seeds, key)).uniform(logits[0].numel()))
            noise = -(-uniform.clamp(min=1e-12).log()).log()
            logits = logits + noise.reshape(logits.shape).to(logits)
        return {**theta, "mixture": self._weights(logits)}

    def _weights(self, logits: Tensor) -> Tensor:
        """Weights ``[T, places, operations]``, zero where a place has fewer operations."""
        sizes = torch.tensor([len(names) for names in self.model.places.values()], device=logits.device)
        missing = torch.arange(logits.shape[-1], device=logits.device) >= sizes[:, None]
        return torch.softmax(logits.masked_fill(missing, -torch.inf) / self.config.temperature, -1)

    def derived(self, values: Mapping[str, Tensor]) -> dict[str, str]:
        """The architecture that is left when each place keeps its weightiest operation (section 2.4 of DARTS)."""
        found: dict[str, str] = {}
        for row, (place, names) in zip(values["logits"].tolist(), self.model.places.items(), strict=True):
            kept = [(weight, name) for weight, name in zip(row, names, strict=False) if name not in self.config.exclude]
            found[place] = max(kept, key=lambda one: one[0])[1]
        return found
