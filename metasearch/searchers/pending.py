"""What searchers of choices share: telling which ask an evaluation answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from metasearch.core.errors import ConfigError, ResumeError
from metasearch.core.space import Space
from metasearch.core.values import Evaluation

T = TypeVar("T")

__all__ = ["Pending", "require_choices"]


class Pending(Generic[T]):
    """Proposals in flight, each with what its searcher must remember.

    An evaluation answers the oldest proposal with its choices: proposals with equal choices can stand in for each
    other, so nothing depends on how proposals are numbered.
    """

    def __init__(self) -> None:
        self._open: list[tuple[Mapping[str, Any], T]] = []

    def __len__(self) -> int:
        return len(self._open)

    def add(self, choices: Mapping[str, Any], memory: T) -> None:
        """Opens a proposal."""
        self._open.append((choices, memory))

    def take(self, evaluation: Evaluation) -> T:
        """Closes the proposal that an evaluation answers.

        Raises:
            ResumeError: if no open proposal has these choices.
        """
        for index, (choices, memory) in enumerate(self._open):
            if choices == evaluation.proposal.choices:
                del self._open[index]
                return memory
        proposal = evaluation.proposal
        raise ResumeError(
            f"evaluation {proposal.id} has the choices {dict(proposal.choices)}, but the searcher waits for "
            f"{[dict(choices) for choices, _ in self._open]}; tell only what was asked for, in the recorded order"
        )


def require_choices(searcher: str, space: Space) -> None:
    """Checks that a searcher of choices has some.

    Raises:
        ConfigError: for an empty space.
    """
    if not space:
        raise ConfigError(
            "searcher",
            f"{searcher!r} proposes choices, but there are none; give a setting a range, such as {{float: [0.01, 1]}}",
        )
