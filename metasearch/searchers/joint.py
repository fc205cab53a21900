"""Several searchers of one phi that move together: choices are proposed, and tensors take a gradient at them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from metasearch.core.contracts import Searcher
from metasearch.core.errors import ConfigError, UnsupportedError, nearest
from metasearch.core.seeds import derive
from metasearch.core.space import Space
from metasearch.core.values import Evaluation, Phi, Tensors

__all__ = ["Joint", "compose"]


def compose(
    searchers: Mapping[str, Searcher],
    slots: Mapping[str, str] | None = None,
    dimensions: Mapping[str, str | None] | None = None,
    rewards: Mapping[str, str] | None = None,
) -> Searcher:
    """The searchers as one: a single one is itself, several are a :class:`Joint` with the same arguments."""
    named = {*(slots or {}).values(), *(dimensions or {}).values()} - {*searchers, None}
    if len(searchers) == 1 and not named and not rewards:
        return next(iter(searchers.values()))
    return Joint(searchers, slots, dimensions, rewards)


class Joint:
    """A searcher made of searchers, each with its own part of phi; all are told the same L.

    An evaluation that diverged is told to each, which does with it what it does alone.

    Args:
        searchers: by the names that slots and ranges refer to.
        slots: for each learned slot, the searcher of its tensors; a slot that is not named belongs to the only searcher
            that takes gradients.
        dimensions: for each dimension of the space, its searcher; None or not named: the only one that takes choices.

    Raises:
        ConfigError: if there is no searcher, or a name in ``slots`` or ``dimensions`` is none.
        UnsupportedError: if one of several searchers assumes that L stays the same (Optuna's): here the others move it.
    """

    stationary = False

    def __init__(
        self,
        searchers: Mapping[str, Searcher],
        slots: Mapping[str, str] | None = None,
        dimensions: Mapping[str, str | None] | None = None,
        rewards: Mapping[str, str] | None = None,
    ) -> None:
        if not searchers:
            raise ConfigError("searchers", "at least one searcher is needed")
        self.searchers = dict(searchers)
        self._slots = dict(slots or {})
        self._dimensions = dict(dimensions or {})
        self._rewards = dict(rewards or {})
        for name in (*self._slots.values(), *self._dimensions.values()):
            if name is not None and name not in self.searchers:
                raise ConfigError("searchers", f"no searcher {name!r}; {nearest(name, self.searchers)}")
        self._refuse_stationary()
        self.needs_gradient = any(searcher.needs_gradient for searcher in self.searchers.values())
        self.in_flight = 1 if self.needs_gradient else min(getattr(s, "in_flight", 1) for s in self.searchers.values())
        self._spaces: dict[str, Space] = {}

    def setup(self, phi: Phi, space: Space, seed: int) -> None:
        """Gives each searcher its part.

        Raises:
            ConfigError: if it is not clear which searcher a slot or a dimension belongs to, or if a condition links
                dimensions of different searchers.
        """
        tensors = {name: self._owner_of_slot(name) for name in phi.tensors}
        buffers = {name: self._owner_of_slot(name) for name in phi.buffers}
        owners = {name: self._owner_of_dimension(name) for name in space}
        for name, searcher in self.searchers.items():
            part = Phi(
                {key: value for key, value in phi.tensors.items() if tensors[key] == name},
                {key: value for key, value in phi.buffers.items() if buffers[key] == name},
            )
            self._spaces[name] = space.subset(key for key, owner in owners.items() if owner == name)
            try:
                searcher.setup(part, self._spaces[name], derive(seed, "joint", name))
            except ConfigError as error:
                raise error.under(f"searchers.{name}") from None

    def ask(self, n: int) -> list[Mapping[str, Any]]:
        proposals: list[dict[str, Any]] = [{} for _ in range(n)]
        for searcher in self.searchers.values():
            for proposal, choices in zip(proposals, searcher.ask(n), strict=True):
                proposal.update(choices)
        return list(proposals)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for name, searcher in self.searchers.items():
            searcher.tell(self._seen_by(name, evaluations))

    def replay(self, evaluations: Sequence[Evaluation]) -> None:
        for name, searcher in self.searchers.items():
            searcher.replay(self._seen_by(name, evaluations))

    def phi(self) -> Phi:
        return self._together(lambda searcher: searcher.phi())

    def averaged(self) -> Phi:
        """As :meth:`phi`, with the averages of those searchers that keep one."""
        return self._together(lambda searcher: getattr(searcher, "averaged", searcher.phi)())

    def _together(self, stand: Callable[[Searcher], Phi]) -> Phi:
        tensors: Tensors = {}
        buffers: Tensors = {}
        choices: dict[str, Any] = {}
        for searcher in self.searchers.values():
            part = stand(searcher)
            tensors |= part.tensors
            buffers |= part.buffers
            if hasattr(searcher, "likeliest"):
                choices |= searcher.likeliest()
        return Phi(tensors, buffers, choices)

    def candidates(self, n: int, seed: int) -> list[dict[str, Any]]:
        """Choices to select from when the search is over: the likeliest, where all searchers of choices have some, and
        ``n`` that they draw.
        """
        choosing = {name: one for name, one in self.searchers.items() if not one.needs_gradient}
        points: list[dict[str, Any]] = []
        if choosing and all(hasattr(searcher, "likeliest") for searcher in choosing.values()):
            points.append(dict(self.phi().choices))
        drawn: list[dict[str, Any]] = [{} for _ in range(n if choosing else 0)]
        for name, searcher in choosing.items():
            for point, choices in zip(drawn, getattr(searcher, "drawn")(n, derive(seed, name)), strict=False):  # noqa: B009
                point.update(choices)
        return points + drawn

    def state_dict(self) -> dict[str, Any]:
        return {name: searcher.state_dict() for name, searcher in self.searchers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, searcher in self.searchers.items():
            searcher.load_state_dict(state.get(name, {}))

    def _seen_by(self, name: str, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
        """The evaluations with the choices of one searcher only, and with its own reward as their value."""
        own, reward = self._spaces[name], self._rewards.get(name)
        seen = []
        for evaluation in evaluations:
            choices = {key: value for key, value in evaluation.proposal.choices.items() if key in own.dimensions}
            proposal = dataclasses.replace(evaluation.proposal, choices=choices)
            estimate = evaluation.estimate
            if reward is not None and reward in estimate.metrics:
                estimate = dataclasses.replace(estimate, value=estimate.metrics[reward])
            seen.append(dataclasses.replace(evaluation, proposal=proposal, estimate=estimate))
        return seen

    def _owner_of_slot(self, tensor: str) -> str:
        slot = tensor.partition(".")[0]
        return self._slots.get(slot) or self._only(f"learner.slots.{slot}", "gradients", gradient=True)

    def _owner_of_dimension(self, name: str) -> str:
        return self._dimensions.get(name) or self._only(name, "choices", gradient=False)

    def _only(self, path: str, what: str, *, gradient: bool) -> str:
        able = [name for name, searcher in self.searchers.items() if searcher.needs_gradient == gradient]
        if len(able) != 1:
            raise ConfigError(
                path, f"names no searcher, and {len(able)} take {what} ({able}); add searcher: NAME to it"
            )
        return able[0]

    def _refuse_stationary(self) -> None:
        for name, searcher in self.searchers.items():
            others = [other for other in self.searchers if other != name]
            if searcher.stationary and others:
                raise UnsupportedError(
                    f"searchers.{name}",
                    f"assumes that equal choices have equal L, but {others} would change it at every step; nest "
                    "instead: make the search with the others the evaluation of this one (evaluation: {type: search}), "
                    "or use type: policy",
                )
