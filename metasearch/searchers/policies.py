"""Distributions over the points of a finite space, with parameters that reinforcement learning can move."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from metasearch.core.dimensions import same
from metasearch.core.errors import UnsupportedError
from metasearch.core.space import Dimension, Space

__all__ = ["MAX_CATEGORIES", "Independent", "Pick", "PolicyNetwork", "categories", "recorded"]

MAX_CATEGORIES = 64
"""Most values of a number range taken as categories; with more, each would hardly ever be tried."""

Pick: TypeAlias = Callable[[str, list[Any], Tensor], int]
"""``pick(name, values, log_probabilities [values])`` gives the index of a value."""


class PolicyNetwork(Protocol):
    """A distribution over points, factorised along the walk through the space."""

    def run(self, pick: Pick) -> tuple[dict[str, Any], Tensor, Tensor]:
        """Walks the space, deciding each active dimension by ``pick``.

        Returns:
            The choices, the log probability of having made them, and the summed entropy (nats) of the decisions made
            on the way; both scalars, differentiable in the parameters.
        """
        ...

    def parameters(self) -> Any:
        """The parameters, as an optimizer takes them."""
        ...


class Independent(nn.Module):
    """One categorical distribution a dimension, independent of what was decided before; starts uniform.

    Raises:
        UnsupportedError: for a dimension that has no short list of values.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self._space = space
        self._values = {name: categories(name, dimension) for name, dimension in space.dimensions.items()}
        self._index = {name: index for index, name in enumerate(self._values)}
        self.logits = nn.ParameterList(
            torch.zeros(len(values), dtype=torch.float64) for values in self._values.values()
        )

    def run(self, pick: Pick) -> tuple[dict[str, Any], Tensor, Tensor]:
        log_probability = entropy = torch.zeros((), dtype=torch.float64)

        def decide(name: str, dimension: Dimension) -> Any:
            nonlocal log_probability, entropy
            logs = torch.log_softmax(self.logits[self._index[name]], dim=0)
            index = pick(name, self._values[name], logs.detach())
            log_probability = log_probability + logs[index]
            entropy = entropy - (logs.exp() * logs).sum()
            return self._values[name][index]

        return self._space.walk(decide), log_probability, entropy


def recorded(choices: Mapping[str, Any]) -> Pick:
    """The pick that repeats choices made before."""
    return lambda name, values, logs: next(index for index, value in enumerate(values) if same(value, choices[name]))


def categories(name: str, dimension: Dimension) -> list[Any]:
    """The values of a dimension.

    Raises:
        UnsupportedError: if there are more than :data:`MAX_CATEGORIES` of a number.
    """
    if math.isinf(dimension.count):
        problem = "is a float range without a step"
    elif not hasattr(dimension, "options") and dimension.count > MAX_CATEGORIES:
        problem = f"has {int(dimension.count)} values"
    else:
        return list(dimension.values())
    raise UnsupportedError(
        name,
        f"{problem}; a policy decides between at most {MAX_CATEGORIES} values: use a choice, give the range a (larger) "
        "step, or let another searcher (optuna) have it",
    )
