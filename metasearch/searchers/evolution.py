"""Evolution of choices: a population is varied, and either its oldest or its worst member makes room."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from metasearch.core.config import Config as BaseConfig
from metasearch.core.seeds import Draws, derive
from metasearch.core.values import Evaluation
from metasearch.searchers.choices import Choices, ChoiceSearcher
from metasearch.searchers.variation import cross, mutable, mutate

__all__ = ["Evolution", "Genetic"]


@dataclass(frozen=True)
class _Member:
    choices: Choices
    loss: float


class _Settings(BaseConfig):
    """What both kinds of evolution are told.

    Args:
        population: members that live at a time; the first so many proposals are random.
        tournament: members drawn (with replacement) for each parent, of which the best becomes it.
        scale: standard deviation of a number's mutation, in shares of its range (of its logarithm, if that is its
            scale).
        in_flight: proposals evaluated at once.
    """

    population: int = Field(default=20, ge=2)
    tournament: int = Field(default=5, ge=1)
    scale: float = Field(default=0.2, gt=0)
    in_flight: int = Field(default=1, ge=1)


class _Population(ChoiceSearcher[None]):
    """Members in the order in which they were told; a subclass breeds, and says who makes room for a new one."""

    stationary = True
    config: _Settings

    def __init__(self, config: _Settings) -> None:
        self.config = config
        self.in_flight = config.in_flight

    def begin(self) -> None:
        """Starts with nobody."""
        self._members: list[_Member] = []

    def propose(self, n: int, first: int) -> list[tuple[Choices, None]]:
        return [(self._next(number), None) for number in range(first, first + n)]

    def learn(self, told: Sequence[tuple[Evaluation, None]]) -> None:
        for evaluation, _ in told:
            if evaluation.status == "failed":
                continue
            loss = evaluation.value if evaluation.finite else math.inf
            self._members.append(_Member(evaluation.proposal.choices, loss))
            if len(self._members) > self.config.population:
                self._remove()

    def _next(self, number: int) -> Choices:
        seed = derive(self._seed, "evolution", number)
        if number < self.config.population or not self._members:
            return self._space.sample(seed)
        return self._child(seed)

    @abstractmethod
    def _child(self, seed: int) -> Choices:
        """A variation of members."""

    @abstractmethod
    def _remove(self) -> None:
        """Takes one member out."""

    def _winner(self, draws: Draws) -> Choices:
        """The best of a tournament."""
        places = draws.integers(self.config.tournament, len(self._members))[0].tolist()
        return min((self._members[place] for place in places), key=lambda member: member.loss).choices

    def _mutated(self, choices: Choices, draws: Draws, seed: int) -> dict[str, Any]:
        """The choices with one dimension changed."""
        names = mutable(self._space, choices)
        chosen = [names[int(draws.integers(1, len(names))[0, 0])]] if names else []
        return mutate(self._space, choices, chosen, seed, self.config.scale)


class Evolution(_Population):
    """Regularized (aging) evolution: the best of a tournament is mutated in one dimension, and the oldest member dies.

    Reference: Real, Aggarwal, Huang, Le 2019, "Regularized evolution for image classifier architecture search", arXiv
    1802.01548, algorithm 1; there with a population of 100 and tournaments of 25, for 20,000 evaluations. Deviations:
    mutations come from the space, and with proposals in flight the population has those members that are known.

    A diverged evaluation has the loss inf: it wins no tournament against a finite one, and ages like the others. A
    failed evaluation joins no population.
    """

    class Config(_Settings):
        """Settings; see the population's."""

    def _child(self, seed: int) -> Choices:
        draws = Draws([seed], "breed")
        return self._mutated(self._winner(draws), draws, seed)

    def _remove(self) -> None:
        del self._members[0]


class Genetic(_Population):
    """A plain genetic algorithm: children of two tournament winners, of which the worst member makes room.

    Each child is crossed over uniformly with probability ``crossover`` (else it is a copy of the first parent), and
    then mutated in each dimension with probability ``mutation``. One that is a copy of a living member is mutated in
    one more dimension. Steady state: a child competes as soon as it is told.

    A diverged evaluation has the loss inf, so it is the first to go. A failed evaluation joins no population.
    """

    config: Genetic.Config

    class Config(_Settings):
        """Settings.

        Args:
            tournament: see the population's; two make the selection of the textbooks.
            crossover: probability that a child has two parents.
            mutation: probability for each dimension; None means one in their number.
        """

        tournament: int = Field(default=2, ge=1)
        crossover: float = Field(default=0.9, ge=0, le=1)
        mutation: float | None = Field(default=None, ge=0, le=1)

    def _child(self, seed: int) -> Choices:
        draws = Draws([seed], "breed")
        child, other = self._winner(draws), self._winner(draws)
        if float(draws.uniform(1)[0, 0]) < self.config.crossover:
            child = cross(self._space, child, other, seed)
        names = mutable(self._space, child)
        rate = 1.0 / max(len(names), 1) if self.config.mutation is None else self.config.mutation
        changed = {name for name, u in zip(names, draws.uniform(len(names))[0], strict=True) if u < rate}
        child = mutate(self._space, child, changed, seed, self.config.scale)
        if any(child == member.choices for member in self._members):
            child = self._mutated(child, draws, derive(seed, "again"))
        return child

    def _remove(self) -> None:
        worst = max(range(len(self._members)), key=lambda index: self._members[index].loss)
        del self._members[worst]
