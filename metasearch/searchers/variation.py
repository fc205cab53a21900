"""How evolution varies points of a space: mutation and crossover, derived from its dimensions and conditions."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from metasearch.core.dimensions import same
from metasearch.core.seeds import Draws, derive
from metasearch.core.space import Choice, Dimension, Float, Int, Space

__all__ = ["cross", "mutable", "mutate"]

_INSIDE = math.nextafter(1.0, 0.0)
"""The largest place that a dimension has."""


def mutable(space: Space, choices: Mapping[str, Any]) -> list[str]:
    """The active dimensions that have another value to change to."""
    return [name for name in space if name in choices and space.dimensions[name].count > 1]


def mutate(
    space: Space, choices: Mapping[str, Any], names: Collection[str], seed: int, scale: float = 0.2
) -> dict[str, Any]:
    """A copy with other values in some dimensions.

    A category changes to one of the others, all being equally likely. A number moves by a normal step in the coordinate
    in which its prior is uniform (so in the logarithm, for a logarithmic range), reflected at the ends, and to the next
    value where the step is too short to reach one. What a change makes exist is drawn from its prior; what it makes
    vanish is left out.

    Args:
        space: space of the choices.
        choices: a point of it.
        names: dimensions to change, active ones with more than one value.
        seed: what is drawn derives from it and the name of the dimension.
        scale: standard deviation of a number's step, in shares of its range.
    """

    def pick(name: str, dimension: Dimension) -> Any:
        if name in choices and name not in names:
            return choices[name]
        draws = Draws([derive(seed, name)], "mutate")
        if name not in choices:
            return dimension.at(float(draws.uniform(1)[0, 0]))
        if isinstance(dimension, Choice):
            others = [value for value in dimension.values() if not same(value, choices[name])]
            return others[int(draws.integers(1, len(others))[0, 0])]
        return _moved(dimension, choices[name], scale * float(draws.normal(1)[0, 0]))

    return space.walk(pick)


def cross(space: Space, one: Mapping[str, Any], other: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A point that takes each dimension from either of two, with equal chances (uniform crossover).

    A dimension that only one of them has is taken from that one; what exists in neither is drawn from its prior.
    """
    names = list(space)
    first = dict(zip(names, (Draws([seed], "cross").uniform(len(names))[0] < 0.5).tolist(), strict=True))

    def pick(name: str, dimension: Dimension) -> Any:
        for parent in (one, other) if first[name] else (other, one):
            if name in parent:
                return parent[name]
        return dimension.at(float(Draws([derive(seed, name)], "cross").uniform(1)[0, 0]))

    return space.walk(pick)


def _moved(dimension: Float | Int, value: Any, by: float) -> Any:
    """Another value, ``by`` a signed share of the range away, at least one grid point."""
    place = (dimension.place(value) + by) % 2.0
    moved = dimension.at(min(2.0 - place if place > 1.0 else place, _INSIDE))
    if math.isinf(dimension.count) or not same(moved, value):
        return moved
    step = dimension.step or 1
    index, last = round((value - dimension.low) / step), int(dimension.count) - 1
    towards = 1 if by > 0 else -1
    index += towards if 0 <= index + towards <= last else -towards
    return dimension.low + index * step if isinstance(dimension, Int) else dimension.values()[index]
