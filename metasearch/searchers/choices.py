"""What searchers of choices have in common: they own no tensors, and are rebuilt by asking and telling again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from metasearch.core.space import Space
from metasearch.core.values import Evaluation, Phi
from metasearch.searchers.pending import Pending, require_choices

__all__ = ["Choices", "ChoiceSearcher"]

Memory = TypeVar("Memory")

Choices = Mapping[str, Any]
"""Values of the active dimensions of a space, by name."""


class ChoiceSearcher(ABC, Generic[Memory]):
    """Proposes points of a space; a subclass says which (:meth:`propose`) and what it learns (:meth:`learn`).

    Proposals are counted, and what a subclass must remember of each is kept until its evaluation is told.
    """

    needs_gradient: ClassVar[bool] = False
    stationary: ClassVar[bool]
    in_flight: int

    _space: Space
    """Of its choices."""
    _seed: int
    """What all it draws derives from."""
    _pending: Pending[Memory]
    """Proposals that no evaluation has answered yet."""

    def setup(self, phi: Phi, space: Space, seed: int) -> None:
        """As the contract says.

        Raises:
            ConfigError: if the space is empty, or is not what this searcher can search.
        """
        require_choices(type(self).__name__.lower(), space)
        self._space, self._seed, self._asked, self._pending = space, seed, 0, Pending()
        self.begin()

    def begin(self) -> None:
        """Makes ready for the first proposal; space and seed are known."""

    @abstractmethod
    def propose(self, n: int, first: int) -> list[tuple[Choices, Memory]]:
        """The next ``n`` proposals, each with what is to be remembered of it.

        Args:
            n: how many.
            first: number of the first one, counted from 0 over the whole search.
        """

    @abstractmethod
    def learn(self, told: Sequence[tuple[Evaluation, Memory]]) -> None:
        """The evaluations of one ask, in its order, each with what was remembered of its proposal."""

    def ask(self, n: int) -> list[Mapping[str, Any]]:
        proposals = self.propose(n, self._asked)
        self._asked += n
        for choices, memory in proposals:
            self._pending.add(choices, memory)
        return [choices for choices, _ in proposals]

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Closes the proposals that evaluations answer and learns from them.

        Raises:
            ResumeError: if one answers no proposal that is open.
        """
        self.learn([(evaluation, self._pending.take(evaluation)) for evaluation in evaluations])

    def replay(self, evaluations: Sequence[Evaluation]) -> None:
        self.tell(evaluations)

    def phi(self) -> Phi:
        return Phi()

    def state_dict(self) -> dict[str, Any]:
        """Empty: it is rebuilt by asking and telling again."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load; see :meth:`state_dict`."""
