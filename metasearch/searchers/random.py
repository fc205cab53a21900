"""Random search: the baseline for every other searcher of choices."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from metasearch.core.config import Config as BaseConfig
from metasearch.core.seeds import derive
from metasearch.core.values import Evaluation
from metasearch.searchers.choices import Choices, ChoiceSearcher

__all__ = ["Random"]


class Random(ChoiceSearcher[None]):
    """Proposes points of the space at random; proposal ``k`` depends on the seed and ``k`` only.

    Reference: Bergstra and Bengio 2012, "Random search for hyper-parameter optimization".

    It learns nothing, so a diverged or failed evaluation changes nothing, and it may be joined with any other searcher.
    """

    stationary = False

    class Config(BaseConfig):
        """Settings.

        Args:
            in_flight: proposals evaluated at once.
        """

        in_flight: int = Field(default=1, ge=1)

    def __init__(self, config: Config) -> None:
        self.in_flight = config.in_flight

    def propose(self, n: int, first: int) -> list[tuple[Choices, None]]:
        return [(self._space.sample(derive(self._seed, "random", first + i)), None) for i in range(n)]

    def drawn(self, n: int, seed: int) -> list[Choices]:
        """Points of the space that are no proposals."""
        return [self._space.sample(derive(seed, "drawn", index)) for index in range(n)]

    def learn(self, told: Sequence[tuple[Evaluation, None]]) -> None:
        """Nothing."""
