"""Several figures to be judged by: which way each is better, limits that must hold, and who dominates whom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from metasearch.core.config import Config
from metasearch.core.errors import ConfigError, nearest
from metasearch.core.values import Evaluation

__all__ = ["Direction", "Limit", "Objectives", "figures", "front", "hypervolume", "order"]

Direction = Literal["min", "max"]


class Limit(Config):
    """What a figure must keep to.

    Args:
        min: smallest allowed value.
        max: largest allowed value.
    """

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _some(self) -> Limit:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        return self

    def excess(self, value: float) -> float:
        """How far a value is outside; 0 or less inside."""
        below = -math.inf if self.min is None else self.min - value
        return max(below, -math.inf if self.max is None else value - self.max)


@dataclass(frozen=True)
class Objectives:
    """What is lowered or raised, and under which limits.

    Args:
        directions: the figures, each with ``min`` (lower is better) or ``max``.
        constraints: limits on figures, which need not be among those.
    """

    directions: Mapping[str, Direction] = field(default_factory=lambda: {"L": "min"})
    constraints: Mapping[str, Limit] = field(default_factory=dict)

    def vector(self, values: Mapping[str, float], path: str = "objectives") -> list[float]:
        """The figures, those to be raised with the other sign: lower is better in each.

        Raises:
            ConfigError: if one was not measured.
        """
        return [_value(values, name, path) * (1.0 if way == "min" else -1.0) for name, way in self.directions.items()]

    def excesses(self, values: Mapping[str, float]) -> dict[str, float]:
        """How far each limit is passed; 0 or less where it holds."""
        return {name: limit.excess(_value(values, name, "constraints")) for name, limit in self.constraints.items()}

    def feasible(self, values: Mapping[str, float]) -> bool:
        """Whether all limits hold."""
        return all(excess <= 0 for excess in self.excesses(values).values())


def figures(evaluation: Evaluation) -> dict[str, float]:
    """All that an evaluation may be judged by: its metrics, ``L`` and ``seconds``."""
    return {**evaluation.estimate.metrics, "L": evaluation.value, "seconds": evaluation.seconds}


def front(vectors: Sequence[Sequence[float]]) -> list[int]:
    """Indexes of the vectors that no other one dominates (is at least as low in all and lower in one).

    >>> front([(1, 4), (2, 2), (3, 3), (4, 1)])
    [0, 1, 3]
    """
    return [] if not len(vectors) else np.flatnonzero(_levels(np.asarray(vectors, dtype=np.float64)) == 0).tolist()


def hypervolume(vectors: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume of what the vectors dominate, up to a reference point that is worse in each figure; more is better.

    Zitzler, Thiele 1998, "Multiobjective optimization using evolutionary algorithms", by slices: exact, and fast for
    fronts of a few hundred points with two or three figures.

    >>> hypervolume([(1, 4), (2, 2), (4, 1), (9, 9)], (5, 5))
    11.0
    """
    points = np.array([one for one in vectors if np.all(np.less(one, reference))], dtype=np.float64)
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(reference[0] - points.min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    heights = np.diff(np.append(points[:, -1], reference[-1]))
    slices = [hypervolume(points[: end + 1, :-1].tolist(), reference[:-1]) for end in range(len(points))]
    return float(heights @ slices)


def order(vectors: Sequence[Sequence[float]]) -> list[int]:
    """Indexes from best to worst: by level of domination, inside a level the less crowded first.

    Deb, Pratap, Agarwal, Meyarivan 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II", Sec. III; ties
    keep the given order.

    >>> order([(3, 3), (1, 4), (2, 2), (4, 1)])
    [1, 3, 2, 0]
    """
    if not len(vectors):
        return []
    values = np.asarray(vectors, dtype=np.float64)
    levels = _levels(values)
    distance = np.zeros(len(values))
    for level in range(int(levels.max()) + 1):
        members = np.flatnonzero(levels == level)
        distance[members] = _crowding(values[members])
    return np.lexsort((np.arange(len(values)), -distance, levels)).tolist()


def _levels(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """``[n]``: 0 for what nothing dominates, 1 for what only those do, and so on."""
    no_worse = np.all(values[:, None] <= values[None], axis=-1)
    dominates: NDArray[np.bool_] = np.asarray(no_worse & np.any(values[:, None] < values[None], axis=-1))
    levels = np.full(len(values), -1)
    level = 0
    while (levels < 0).any():
        open_ = levels < 0
        levels[open_ & ~dominates[open_].any(0)] = level
        level += 1
    return levels


def _crowding(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[n]``: per objective the distance of both neighbours, as shares of the range, summed; ends are infinite."""
    distance = np.zeros(len(values))
    for column in values.T:
        by = np.argsort(column, kind="stable")
        low, high = column[by[0]], column[by[-1]]
        distance[by[[0, -1]]] = np.inf
        if high > low:
            distance[by[1:-1]] += (column[by[2:]] - column[by[:-2]]) / (high - low)
    return distance


def _value(values: Mapping[str, float], name: str, path: str) -> float:
    if name not in values:
        raise ConfigError(f"{path}.{name}", f"was not measured; {nearest(name, values)}")
    return float(values[name])
