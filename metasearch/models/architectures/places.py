"""Places of a network at which one of several operations stands, and networks made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from metasearch.core.errors import ConfigError, nearest

__all__ = ["Architecture", "Place", "SearchNetwork"]

Architecture: TypeAlias = Mapping[str, str]
"""The operation of each place, by name."""

NOTHING = "none"
"""The operation that passes nothing on; a place may hold it without a module."""


class Place(nn.Module):
    """One of several operations, or their weighted sum.

    Args:
        make: ``make(name)`` is the module of an operation; it is not asked for ``none``.
        names: the operations that can stand here, in the order of their weights.
        chosen: the only one that is made; None makes all of them.
    """

    def __init__(self, make: Callable[[str], nn.Module], names: tuple[str, ...], chosen: str | None) -> None:
        super().__init__()
        self.names = names
        made = names if chosen is None else (chosen,)
        self.operations = nn.ModuleDict({name: make(name) for name in made if name != NOTHING})

    def forward(self, x: Tensor, how: str | Tensor) -> Tensor | None:
        """The named operation of ``x``, or the sum of all of them weighted by ``how [operations]``; None is zero."""
        if isinstance(how, str):
            result: Tensor | None = None if how == NOTHING else self.operations[how](x)
            return result
        terms = [how[self.names.index(name)] * operation(x) for name, operation in self.operations.items()]
        return torch.stack(terms).sum(0) if terms else None


class SearchNetwork(nn.Module):
    """A network with places; a subclass builds it and says which places it has.

    ``architecture`` says what stands at each place. A network without one is a supernet: it holds the weights of all
    operations. Set its ``path`` to an architecture to run that one with the shared weights; without a path each place
    is the sum of its operations weighted by its row of ``mixture``, which is no parameter: exchange it by
    ``torch.func.functional_call``, or leave it equal for all.

    Raises:
        ConfigError: if an architecture lacks a place or names an operation that cannot stand there.
    """

    def __init__(self, places: Mapping[str, tuple[str, ...]], architecture: Architecture | None) -> None:
        super().__init__()
        self.places = dict(places)
        self.path: Architecture | None = None
        if architecture is not None:
            self.path = self.checked(architecture)
        width = max(map(len, self.places.values()))
        self.mixture = torch.full((len(self.places), width), 1.0 / width)

    def checked(self, architecture: Architecture) -> dict[str, str]:
        """The operation of each place, in the order of the places."""
        found: dict[str, str] = {}
        for place, names in self.places.items():
            if place not in architecture:
                raise ConfigError(place, f"has no operation; expected one of {', '.join(names)}")
            if architecture[place] not in names:
                raise ConfigError(
                    place, f"unknown operation {architecture[place]!r}; {nearest(str(architecture[place]), names)}"
                )
            found[place] = architecture[place]
        if unknown := sorted(set(architecture) - set(found)):
            raise ConfigError(unknown[0], f"is no place of this network; {nearest(unknown[0], self.places)}")
        return found

    def how(self, place: str) -> str | Tensor:
        """What a place is told: its operation, or the weights of its operations."""
        if self.path is not None:
            return self.path[place]
        return self.mixture[list(self.places).index(place)]
