"""Distributions over the points of a finite space, with parameters that reinforcement learning can move."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metasearch.core.conditions import active
from metasearch.core.dimensions import same
from metasearch.core.errors import UnsupportedError
from metasearch.core.seeds import Draws, derive
from metasearch.core.space import Dimension, Space

__all__ = ["LSTM", "MAX_CATEGORIES", "Independent", "Pick", "PolicyNetwork", "categories", "recorded"]

MAX_CATEGORIES = 64
"""Most values of a number range taken as categories; with more, each would hardly ever be tried."""

Pick: TypeAlias = Callable[[str, list[Any], Tensor], int]
"""``pick(name, values, log_probabilities [values])`` gives the index of a value."""


class PolicyNetwork(nn.Module, ABC):
    """A distribution over points, factorised along the walk through a space; a subclass says by which logits.

    Several walks go in step: at each dimension those decide for which it exists. Its numbers are float64.

    Raises:
        UnsupportedError: for a dimension that has no short list of values.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.dimensions = dict(space.dimensions)
        self.values = {name: categories(name, dimension) for name, dimension in self.dimensions.items()}

    @abstractmethod
    def step(self, place: int, before: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The logits of a decision; called for each dimension in order, whether or not it exists in a walk.

        Args:
            place: number of the dimension.
            before: ``[n]``, the index of the value decided at the place before, -1 where there was none.
            state: what the step before returned; None at the first.

        Returns:
            Logits ``[n, values]``, and the state for the next step.
        """

    def sample(self, uniform: NDArray[np.float64]) -> tuple[list[dict[str, Any]], Tensor]:
        """Points drawn from the distribution.

        Args:
            uniform: ``[n, dimensions]``, numbers from U[0, 1): what each decision is drawn with.

        Returns:
            The choices of the points, and the log probability of each, ``[n]``.
        """
        places = {name: place for place, name in enumerate(self.dimensions)}

        def drawn(name: str, logs: Tensor, walks: Sequence[int]) -> list[int]:
            edges = np.cumsum(logs.detach().exp().numpy(), axis=1)
            passed = edges <= uniform[walks, places[name]][:, None] * edges[:, -1:]
            return np.minimum(passed.sum(1), logs.shape[1] - 1).tolist()

        choices, logs, _ = self._walk(len(uniform), drawn)
        return choices, logs

    def score(self, points: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
        """Log probabilities of points and the entropies (nats) summed over their decisions, ``[n]`` each."""

        def made(name: str, logs: Tensor, walks: Sequence[int]) -> list[int]:
            return [_index(self.values[name], points[walk][name]) for walk in walks]

        _, logs, entropies = self._walk(len(points), made)
        return logs, entropies

    def run(self, pick: Pick) -> tuple[dict[str, Any], Tensor, Tensor]:
        """Walks the space once, deciding each active dimension by ``pick``.

        Returns:
            The choices, the log probability of having made them, and the summed entropy (nats) of the decisions made
            on the way; both scalars, differentiable in the parameters.
        """
        choices, logs, entropies = self._walk(
            1, lambda name, logs, walks: [pick(name, self.values[name], logs[0].detach())]
        )
        return choices[0], logs[0], entropies[0]

    def _walk(
        self, n: int, pick: Callable[[str, Tensor, Sequence[int]], list[int]]
    ) -> tuple[list[dict[str, Any]], Tensor, Tensor]:
        """``n`` walks; ``pick(name, logs [m, values], walks [m])`` decides for those in which a dimension exists."""
        choices: list[dict[str, Any]] = [{} for _ in range(n)]
        log_probability = entropy = torch.zeros(n, dtype=torch.float64)
        before, state = torch.full((n,), -1), None
        for place, (name, dimension) in enumerate(self.dimensions.items()):
            logits, state = self.step(place, before, state)
            walks = [walk for walk in range(n) if active(dimension, choices[walk])]
            before = torch.full((n,), -1)
            if not walks:
                continue
            rows = torch.tensor(walks)
            logs = torch.log_softmax(logits if len(walks) == n else logits[rows], dim=1)
            made = pick(name, logs, walks)
            before[rows] = torch.tensor(made)
            chosen, spread = logs.gather(1, before[rows, None])[:, 0], -(logs.exp() * logs).sum(1)
            if len(walks) < n:
                nothing = torch.zeros(n, dtype=torch.float64)
                chosen, spread = nothing.index_add(0, rows, chosen), nothing.index_add(0, rows, spread)
            log_probability, entropy = log_probability + chosen, entropy + spread
            for walk, index in zip(walks, made, strict=True):
                choices[walk][name] = self.values[name][index]
        return choices, log_probability, entropy


class Independent(PolicyNetwork):
    """One categorical distribution a dimension, independent of what was decided before; starts uniform."""

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self.logits = nn.ParameterList(torch.zeros(len(values), dtype=torch.float64) for values in self.values.values())

    def step(self, place: int, before: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.logits[place].expand(len(before), -1), None


class LSTM(PolicyNetwork):
    """A recurrent policy: each decision sees those before it; starts uniform.

    An LSTM goes along the dimensions, the last decision being its input (as a learned vector), and a linear head for
    each dimension makes logits of its output. A dimension that does not exist counts as no decision.

    References: Zoph and Le 2017, arXiv 1611.01578, section 3; Pham et al. 2018, arXiv 1802.03268, section 2.1.
    Deviations: heads start from zero, so that the first points are uniform, and logits are not bounded.

    Args:
        space: space of its points.
        seed: of the initial weights, which are drawn from U[-0.1, 0.1).
        hidden: width of the LSTM and of its inputs.
    """

    def __init__(self, space: Space, seed: int, hidden: int = 32) -> None:
        super().__init__(space)
        sizes = [len(values) for values in self.values.values()]
        self._offsets = [1 + sum(sizes[:place]) for place in range(len(sizes))]
        shape = {"dtype": torch.float64}
        self.decisions = torch.nn.utils.skip_init(nn.Embedding, 1 + sum(sizes), hidden, **shape)
        self.cell = torch.nn.utils.skip_init(nn.LSTMCell, hidden, hidden, **shape)
        self.heads = nn.ModuleList(torch.nn.utils.skip_init(nn.Linear, hidden, size, **shape) for size in sizes)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.startswith("heads."):
                    parameter.zero_()
                    continue
                drawn = Draws([derive(seed, name)]).uniform(parameter.numel(), -0.1, 0.1)[0]
                parameter.copy_(torch.from_numpy(drawn).view_as(parameter))

    def step(self, place: int, before: Tensor, state: Any) -> tuple[Tensor, Any]:
        offset = self._offsets[place - 1] if place else 0
        token = torch.where(before < 0, 0, before + offset)
        state = self.cell(self.decisions(token), state)
        return self.heads[place](state[0]), state


def recorded(choices: Mapping[str, Any]) -> Pick:
    """The pick that repeats choices made before."""
    return lambda name, values, logs: _index(values, choices[name])


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


def _index(values: Sequence[Any], value: Any) -> int:
    return next(index for index, other in enumerate(values) if same(other, value))
