"""How population-based training changes the choices that a training run takes over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from metasearch.core.dimensions import Choice, Dimension
from metasearch.core.seeds import Draws
from metasearch.core.space import Space

__all__ = ["perturb"]


def perturb(
    space: Space, choices: Mapping[str, Any], seed: int, *, resample: float, factors: tuple[float, float]
) -> dict[str, Any]:
    """Choices near the given ones.

    Each dimension is drawn anew with probability ``resample``; else a number is multiplied by one of two factors and
    kept inside its range (by at least one step, where it has steps), and an option gives way to a neighbour in its
    list. A dimension that exists only now is drawn.

    Args:
        space: what they are choices of.
        choices: to start from.
        seed: of the draws.
        resample: a probability.
        factors: one below 1, one above.
    """
    streams = {name: Draws([seed], f"perturb {name}").uniform(3)[0] for name in space}

    def pick(name: str, dimension: Dimension) -> Any:
        again, which, place = streams[name].tolist()
        if name not in choices or again < resample:
            return dimension.at(place)
        return _moved(dimension, choices[name], up=which < 0.5, factors=factors)

    return space.walk(pick)


def _moved(dimension: Dimension, value: Any, *, up: bool, factors: tuple[float, float]) -> Any:
    if not isinstance(dimension, Choice) and math.isinf(dimension.count):
        return min(max(value * (max(factors) if up else min(factors)), dimension.low), dimension.high)
    values = dimension.values()
    here = values.index(value) if isinstance(dimension, Choice) else _nearest(values, value)
    if isinstance(dimension, Choice):
        there = here + (1 if up else -1)
    else:
        wanted = _nearest(values, value * (max(factors) if up else min(factors)))
        there = max(wanted, here + 1) if up else min(wanted, here - 1)
    return values[min(max(there, 0), len(values) - 1)]


def _nearest(values: list[Any], value: float) -> int:
    return min(range(len(values)), key=lambda index: abs(values[index] - value))
