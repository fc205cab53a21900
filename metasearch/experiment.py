"""A resolved experiment, and the objects of a search that come from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import metasearch.searchers  # noqa: F401  (lists the built-in searchers)
from metasearch.core.contracts import Searcher
from metasearch.core.registry import build, registry
from metasearch.core.space import Space
from metasearch.core.values import Phi
from metasearch.owners import reward_split, searcher_class
from metasearch.program import Blueprint, ExperimentProgram
from metasearch.schema import ExperimentFile
from metasearch.searchers.joint import compose

__all__ = ["Experiment"]


@dataclass(frozen=True)
class Experiment:
    """A resolved experiment: checked, with all that is derived from it.

    Args:
        tree: the whole configuration, recipes expanded, ranges in place, classes as objects or by name.
        file: its blocks, with the first values of all ranges.
        space: all choices, extracted ranges and those that components declare.
        owners: searcher of each choice.
        slot_owners: searcher of each slot's tensors.
        blueprint: what workers are built from.
    """

    tree: Mapping[str, Any]
    file: ExperimentFile
    space: Space
    owners: Mapping[str, str]
    slot_owners: Mapping[str, str]
    blueprint: Blueprint

    @property
    def program(self) -> ExperimentProgram:
        """A program built now, in this process."""
        return ExperimentProgram(self.blueprint)

    @property
    def episodes(self) -> bool:
        """Whether an evaluation is over tasks, by a learner."""
        return bool(self.file.evaluation.get("type", "episodes") == "episodes")

    @property
    def trials(self) -> bool:
        """Whether an evaluation is a training run; else function calls answer it."""
        kind = self.file.evaluation.get("type", "episodes")
        return not self.episodes and not hasattr(registry("evaluation").get(kind, "evaluation.type"), "measure")

    def searcher(self, phi: Phi, seed: int) -> Searcher:
        """The searcher of this experiment, set up; several are joined.

        Raises:
            ConfigError: if one cannot be built; UnsupportedError if they cannot work together.
        """
        parts = {
            name: build("searcher", self.plain(name, settings), f"searchers.{name}")
            for name, settings in self.file.searchers.items()
        }
        rewards = {name: "reward" for name, settings in self.file.searchers.items() if reward_split(settings)}
        joined = compose(parts, dict(self.slot_owners), dict(self.owners), rewards)
        joined.setup(phi, self.space, seed)
        return joined

    def plain(self, name: str, settings: Any) -> Any:
        """A searcher's own settings: without what the experiment does for it, and with the length of its schedule and
        the objectives.
        """
        if not isinstance(settings, Mapping):
            settings = {"type": settings}
        plain = {key: value for key, value in settings.items() if key != "reward_split"}
        if plain.get("schedule", "constant") != "constant" and self.file.budget.steps is not None:
            plain.setdefault("total_steps", self.file.budget.steps)
        if getattr(searcher_class(name, settings), "several", False):
            blocks = {"objectives": self.file.objectives, "constraints": self.file.constraints}
            plain |= {key: block for key, block in blocks.items() if block}
        return plain

    def in_flight(self, searcher: Searcher) -> int:
        """Proposals worked on at a time: what the searcher says, at least one a worker; one step for gradients."""
        if searcher.needs_gradient:
            return 1
        return max(int(getattr(searcher, "in_flight", 1)), self.file.execution.workers, self.population or 0)

    @property
    def scheduler(self) -> dict[str, Any] | None:
        """The settings of the scheduler, which knows the experiment's objectives."""
        settings, objectives = self.file.scheduler, self.file.objectives
        if settings is None or not objectives or {"metric", "weights", "objectives"} & set(settings):
            return settings
        return {**settings, "objectives": objectives}

    @property
    def population(self) -> int | None:
        """How many training runs make up a population; None where they are on their own."""
        settings = self.file.scheduler or {}
        return int(settings["population"]) if settings.get("type") in ("pbt", "pb2") else None

    def takes_gradient(self) -> bool:
        """Whether a searcher needs the gradient of L."""
        return any(searcher_class(name, settings).needs_gradient for name, settings in self.file.searchers.items())

    def with_run(self, folder: Path) -> Experiment:
        """The same experiment, working in a run's folder."""
        return dataclasses.replace(self, blueprint=dataclasses.replace(self.blueprint, run=str(folder)))
