"""Populations of training runs: Ray Tune's population-based training, with draws of our own and a record of its moves.

All members wait for each other after every interval. Then the worst take over the checkpoints of the best, and go on
under other choices: those of the member they copy, perturbed (PBT), or what a model of past gains proposes (PB2).
Members go on from checkpoints after each wait, so nothing depends on how many run at a time.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

from metasearch.core.errors import ExecutionError
from metasearch.core.seeds import derive
from metasearch.core.space import Space
from metasearch.core.values import Call, Change, Member, Report
from metasearch.execution.bandits import Gains
from metasearch.execution.desk import Desk
from metasearch.execution.explore import perturb
from metasearch.execution.packing import resolved
from metasearch.execution.schedulers import RANK, TIME, Population
from metasearch.execution.trainable import REPORT

__all__ = ["PopulationScheduler", "population_scheduler"]

Choices = Mapping[str, Any]


class PopulationScheduler(PopulationBasedTraining):
    """Tune's synchronous population-based training (Jaderberg et al. 2017, arXiv:1711.09846, Algorithm 1).

    Tune's class says who waits and who copies whom, and moves the trials; a subclass says which choices come next.
    Tune would draw from Python's global stream: here draws come from the seed, the step and the proposal.

    Args:
        settings: checked settings.
        desk: knows the calls of the trials; changes are announced there.
        space: of the choices.
        seed: of all draws.
    """

    def __init__(self, settings: Population, desk: Desk, space: Space, seed: int) -> None:
        super().__init__(
            time_attr=TIME,
            metric=RANK,
            mode=settings.mode,
            perturbation_interval=settings.interval,
            burn_in_period=settings.burn_in,
            custom_explore_fn=lambda config: config,  # Tune asks for a way to explore; _get_new_config is ours
            quantile_fraction=settings.quantile,
            log_config=False,
            synch=True,
        )
        self.settings, self.space, self.seed = settings, space, seed
        self._desk = desk
        self._size = settings.population
        self._begun = 0
        self._looked = 0
        self._choices: dict[int, Choices] = {}
        self._reports: dict[int, Report] = {}
        self._moves: dict[int, Member] = {}

    @abstractmethod
    def explore(self, member: int, source: int, step: int) -> dict[str, Any]:
        """The choices under which a member goes on from the checkpoint of its source."""

    def observe(self, step: int, scores: Mapping[int, float]) -> None:
        """Takes in what members reached (higher is better); for models."""

    def settle(self, step: int, sources: Mapping[int, int]) -> None:
        """Takes in who goes on from whom; for models."""

    def feed(self, size: int, changes: Sequence[Change], reports: Mapping[int, Sequence[Report]]) -> None:
        """Takes up where an earlier process left off.

        Args:
            size: members that have not finished.
            changes: the recorded ones, in order.
            reports: of each member, the reports of the steps of changes among them.
        """
        self._size = size
        for change in changes:
            at = {
                number: [one for one in reports.get(number, ()) if one.step == change.step] for number in change.members
            }
            self.observe(change.step, {number: self._score(found[0]) for number, found in at.items() if found})
            self._take(change)
            self._next_perturbation_sync = change.step + self.settings.interval

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        # Tune allows no searcher beside this scheduler; the desk's hands out trials and proposes nothing.
        nobody: Any = SimpleNamespace(search_alg=None)
        super().on_trial_add(nobody, trial)
        state = self._trial_state[trial]
        state.last_perturbation_time = state.last_train_time = self._begun
        self._choices.setdefault(self._call(trial).proposal, self._call(trial).phi.choices)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        step = result.get(TIME)
        if step is None or step >= self.settings.max:
            return TrialScheduler.CONTINUE
        self._reports[self._call(trial).proposal] = result[REPORT]
        due = self._next_perturbation_sync
        if step >= due and len(self._trial_state) < self._size:  # the others have not begun yet
            self._save_trial_state(self._trial_state[trial], step, result, trial)
            return TrialScheduler.PAUSE
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if self._next_perturbation_sync != due:
            self._announce(step)
        return decision

    def _checkpoint_or_exploit(
        self, trial: TuneTrial, tune_controller: Any, upper_quantile: list[TuneTrial], lower_quantile: list[TuneTrial]
    ) -> None:
        if trial in lower_quantile:
            member, step = self._call(trial).proposal, self._trial_state[trial].last_train_time
            drawn = random.Random(derive(self.seed, "source", step, member))
            upper_quantile = [drawn.choice(upper_quantile)]
        super()._checkpoint_or_exploit(trial, tune_controller, upper_quantile, lower_quantile)

    def _get_new_config(self, trial: TuneTrial, trial_to_clone: TuneTrial) -> tuple[dict[str, Any], dict[str, str]]:
        step = self._trial_state[trial].last_train_time
        member, source = self._call(trial).proposal, self._call(trial_to_clone).proposal
        if step > self._looked:
            self._looked = step
            self.observe(step, {number: self._score(one) for number, one in self._reports.items() if one.step == step})
        choices = self.explore(member, source, step)
        self.space.validate(choices)
        self._moves[member] = Member(source, choices, self._checkpoint(source))
        config = self._desk.flight(trial).changed(choices, self._moves[member].checkpoint, step)
        return {**trial.config, **config}, {}

    def _announce(self, step: int) -> None:
        members = {
            number: self._moves.get(number) or Member(number, self._choices[number], self._checkpoint(number))
            for number, report in sorted(self._reports.items())
            if report.step == step
        }
        self._moves = {}
        change = Change(step, members)
        self._take(change)
        self._desk.announce(change)

    def _take(self, change: Change) -> None:
        self._choices |= {number: one.choices for number, one in change.members.items()}
        self.settle(change.step, {number: one.source for number, one in change.members.items()})
        self._begun = self._looked = change.step

    def _score(self, report: Report) -> float:
        rank = float(self.settings.rank(report))
        return rank if self.settings.mode == "max" else -rank

    def _checkpoint(self, number: int) -> str:
        report = self._reports[number]
        if report.checkpoint is None:
            self._desk.error = ExecutionError(
                f"members of a population take over each other's checkpoints, and proposal {number} saved none before "
                f"its report of step {report.step}; write one into trial.checkpoint() before each report"
            )
            raise self._desk.error
        return report.checkpoint

    def _call(self, trial: TuneTrial) -> Call:
        return resolved(self._desk.flight(trial).call)


class _Perturbing(PopulationScheduler):
    """PBT: the source's choices, perturbed."""

    def explore(self, member: int, source: int, step: int) -> dict[str, Any]:
        seed = derive(self.seed, "explore", step, member)
        resample, factors = self.settings.resample, self.settings.factors
        return perturb(self.space, self._choices[source], seed, resample=resample, factors=factors)


class _Modelling(PopulationScheduler):
    """PB2: the choices that promise the largest gain."""

    def __init__(self, settings: Population, desk: Desk, space: Space, seed: int) -> None:
        super().__init__(settings, desk, space, seed)
        self._gains = Gains(space, settings.interval)

    def observe(self, step: int, scores: Mapping[int, float]) -> None:
        self._gains.observe(step, self._choices, scores)

    def settle(self, step: int, sources: Mapping[int, int]) -> None:
        self._gains.settle(step, sources)

    def explore(self, member: int, source: int, step: int) -> dict[str, Any]:
        return self._gains.propose(source, self._choices[source], derive(self.seed, "explore", step, member))


def population_scheduler(settings: Population, desk: Desk, space: Space, seed: int) -> PopulationScheduler:
    """The scheduler for checked settings."""
    kind = _Modelling if settings.type == "pb2" else _Perturbing
    return kind(settings, desk, space, seed)
