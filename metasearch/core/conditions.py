"""Conditions between dimensions: what is active, in which order to decide, how many combinations there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from metasearch.core.dimensions import Dimension, Scalar, When, expression, same
from metasearch.core.errors import ConfigError, nearest

__all__ = ["Counter", "active", "conditioned", "domain", "parents_first", "under"]


def active(dimension: Dimension, choices: Mapping[str, Any]) -> bool:
    """Whether a dimension exists under the choices made so far (an inactive parent is not among them)."""
    conditions = (dimension.when or {}).items()
    return all(name in choices and any(same(choices[name], value) for value in values) for name, values in conditions)


def conditioned(dimension: Dimension, when: When) -> Dimension:
    """The dimension under a further condition: both must hold."""
    joined: dict[str, tuple[Scalar, ...]] = {name: tuple(values) for name, values in (dimension.when or {}).items()}
    for name, values in when.items():
        joined[name] = (
            tuple(v for v in joined[name] if any(same(v, w) for w in values)) if name in joined else tuple(values)
        )
    return replace(dimension, when=joined or None)


def under(dimension: Dimension, when: When) -> Dimension:
    """The dimension with exactly this condition."""
    return replace(dimension, when=when or None)


def domain(dimension: Dimension) -> str:
    """A dimension for messages, without its condition."""
    return str({key: value for key, value in expression(dimension).items() if key != "when"})


def parents_first(dimensions: dict[str, Dimension]) -> dict[str, Dimension]:
    """The dimensions in their order, but each after those its condition names."""
    ordered: dict[str, Dimension] = {}

    def place(name: str, waiting: tuple[str, ...]) -> None:
        if name in waiting:
            raise ConfigError(name, f"exists only under conditions that form a circle: {' <- '.join((*waiting, name))}")
        if name in ordered:
            return
        for parent, values in (dimensions[name].when or {}).items():
            if parent not in dimensions:
                raise ConfigError(f"{name}.when", f"no dimension {parent!r}; {nearest(parent, dimensions)}")
            for value in values:
                if not dimensions[parent].contains(value):
                    raise ConfigError(f"{name}.when.{parent}", f"{value!r} is not in {domain(dimensions[parent])}")
            place(parent, (*waiting, name))
        ordered[name] = dimensions[name]

    for name in dimensions:
        place(name, ())
    return ordered


_OTHER = object()
"""Stands for the values of a parent that no condition names."""


class Counter:
    """Counts the walks of dimensions that are in order.

    A dimension that no later condition names only multiplies; a parent is split into the values that conditions name
    and the rest; counts are kept by what later conditions can still see.
    """

    def __init__(self, dimensions: Mapping[str, Dimension]) -> None:
        self._items = list(dimensions.items())
        self._known: dict[tuple[Any, ...], float] = {}

    def count(self, start: int = 0, values: Mapping[str, Any] | None = None) -> float:
        """The combinations from a place in the order on, given the values before it; inf for an unstepped float."""
        if start == len(self._items):
            return 1
        later = [dimension for _, dimension in self._items[start:]]
        seen = {
            name: value
            for name, value in (values or {}).items()
            if any(name in (dimension.when or {}) for dimension in later)
        }
        key = (start, *((name, repr(value)) for name, value in sorted(seen.items())))
        if key not in self._known:
            self._known[key] = self._split(start, seen)
        return self._known[key]

    def _split(self, start: int, values: Mapping[str, Any]) -> float:
        name, dimension = self._items[start]
        if not active(dimension, values):
            return self.count(start + 1, values)
        named: list[Scalar] = []
        for _, later in self._items[start + 1 :]:
            named += [
                value for value in (later.when or {}).get(name, ()) if not any(same(value, other) for other in named)
            ]
        rest = dimension.count - len(named)
        total = sum(self.count(start + 1, {**values, name: value}) for value in named)
        return total + (rest * self.count(start + 1, {**values, name: _OTHER}) if rest > 0 else 0)
