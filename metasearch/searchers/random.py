"""Random search: the baseline for every other searcher of choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from metasearch.core.config import Config as BaseConfig
from metasearch.core.seeds import derive
from metasearch.core.space import Space
from metasearch.core.values import Evaluation, Phi
from metasearch.searchers.pending import Pending, require_choices

__all__ = ["Random"]


class Random:
    """Proposes points of the space at random; proposal ``k`` depends on the seed and ``k`` only.

    Reference: Bergstra and Bengio 2012, "Random search for hyper-parameter optimization".

    It learns nothing, so a diverged or failed evaluation changes nothing, and it may be joined with any other searcher.
    """

    needs_gradient = False
    stationary = False

    class Config(BaseConfig):
        """Settings.

        Args:
            in_flight: proposals evaluated at once.
        """

        in_flight: int = Field(default=1, ge=1)

    def __init__(self, config: Config) -> None:
        self.in_flight = config.in_flight
        self._space = Space()
        self._seed = 0
        self._asked = 0
        self._pending: Pending[None] = Pending()

    def setup(self, phi: Phi, space: Space, seed: int) -> None:
        require_choices("random", space)
        self._space, self._seed, self._asked, self._pending = space, seed, 0, Pending()

    def ask(self, n: int) -> list[Mapping[str, Any]]:
        proposals: list[Mapping[str, Any]] = []
        for _ in range(n):
            choices = self._space.sample(derive(self._seed, "random", self._asked))
            self._asked += 1
            self._pending.add(choices, None)
            proposals.append(choices)
        return proposals

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            self._pending.take(evaluation)

    def replay(self, evaluations: Sequence[Evaluation]) -> None:
        self.tell(evaluations)

    def phi(self) -> Phi:
        return Phi()

    def state_dict(self) -> dict[str, Any]:
        """Empty: it is rebuilt by asking and telling again."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load; see :meth:`state_dict`."""
