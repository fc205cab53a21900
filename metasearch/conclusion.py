"""What stands at the end of a run: the reported phi, the test of it, and the baselines' figures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from metasearch import artifacts
from metasearch.controller import Controller
from metasearch.core import seeds as seeding
from metasearch.core.errors import ExecutionError
from metasearch.core.values import Phi
from metasearch.experiment import Experiment
from metasearch.heldout import HeldOut, names_of
from metasearch.outputs import Outputs
from metasearch.plan import Record
from metasearch.resolution import again
from metasearch.results import best_proposal, schedule_of
from metasearch.tracking import RunDirectory
from metasearch.tracking.journal import read as read_journal
from metasearch.trees import recorded

__all__ = ["Conclusion", "finished"]

BEFORE = "before_refit"
"""Name of the test of the phi that validation selected, where another one is reported (``test.refit``)."""

ENSEMBLE = "ensemble_of_"
"""Beginning of the name of the test of a mean prediction (``test.ensemble``); their number follows."""


class Conclusion:
    """Takes the figures of a search that has come to its end.

    Args:
        experiment: what was run.
        directory: its files.
        outputs: what it leaves there.
        phase: is told what happens now.
        record: appends to the record: a type and its fields.
    """

    def __init__(
        self,
        experiment: Experiment,
        directory: RunDirectory,
        outputs: Outputs,
        phase: Callable[[str], None],
        record: Callable[..., Record],
    ) -> None:
        self._experiment, self._directory, self._outputs = experiment, directory, outputs
        self._phase, self._record = phase, record

    def measure(
        self, controller: Controller, held_out: HeldOut, history: Sequence[Record], members: Sequence[Record]
    ) -> None:
        """Saves the reported phi and takes the test; figures that the record has already are not taken again.

        Args:
            controller: of the search, which has come to its end.
            held_out: validation and test tasks.
            history: the record as it was when this driver began.
            members: validations whose phis ``test.ensemble`` averages.
        """
        records = read_journal(self._directory.journal_path)
        best = best_proposal(records, self._experiment.file.constraints)
        if controller.best is None:
            schedule = schedule_of(records, best["id"]) if best else []
            chosen = schedule[-1]["choices"] if schedule else best and best["choices"]
            self._outputs.phi(controller.found(chosen), {"step": controller.step}, schedule)
        settings = self._experiment.file.test
        if settings is None or self._experiment.trials:
            return
        name = "metasearch" if settings.refit is None else BEFORE
        done = {one["name"] for one in history if one["type"] == "test"}
        kinds = [one["type"] for one in records if one["type"] in ("evaluation", "test")]
        if kinds[-1:] == ["evaluation"]:  # their figures are of earlier phis: the search went on
            done -= {name, *(one for one in done if one.startswith(ENSEMBLE))}
        phi = artifacts.load(self._outputs.selected_path).phi
        if settings.derive is not None and name not in done:
            phi = self._derived(controller, held_out, phi)
        if name not in done and not self._experiment.episodes:
            self._phase("test of the best proposal")
            self._record("test", name=name, **held_out.single(phi))
        elif name not in done:
            self._phase(f"test on {settings.episodes} held-out tasks")
            self._record("test", name=name, **held_out.test(phi))
            self._outputs.pictures(held_out.pictures(phi))
        name = f"{ENSEMBLE}{len(members)}"
        if members and name not in done:
            self._phase(f"mean prediction of the {len(members)} best by validation")
            self._record("test", name=name, **held_out.ensemble(self._outputs.members(members)))
        for name in names_of(settings.baselines):
            if name not in done:
                self._phase(f"baseline {name}")
                self._record("test", name=name, **held_out.baseline(name))

    def refit(
        self,
        changes: Mapping[str, Any],
        controller: Controller,
        drive: Callable[[RunDirectory, Experiment], tuple[str, str]],
    ) -> tuple[str, str]:
        """Trains phi again for the number of steps that was found, as a run in a folder of this one, and takes over its
        phi and test figure; how that run ended, and why.

        Args:
            changes: of the experiment (``test.refit``).
            controller: of the search, which has come to its end.
            drive: runs an experiment in a directory.
        """
        if controller.best is None:
            raise ExecutionError("no validation had a finite figure, so nothing says for how many steps to train again")
        steps = controller.best["step"]
        experiment, folder = again(self._experiment, steps), f"refitted-{steps}"
        directory = RunDirectory(self._directory.path / folder)
        if not directory.config_path.exists():
            shutil.rmtree(directory.path, ignore_errors=True)
            text = yaml.safe_dump(recorded(experiment.tree), sort_keys=False, allow_unicode=True)
            directory = RunDirectory.create(self._directory.path, experiment.file.name, text, folder=folder)
        if not finished(directory):
            self._phase(f"training again from the start, {steps} steps")
            status, reason = drive(directory, experiment)
            if status != "finished":
                return status, reason
        stored_phi = artifacts.load(directory.phi_path)
        artifacts.save(self._directory.phi_path, stored_phi.phi, stored_phi.manifest)
        tests = [one for one in read_journal(self._directory.journal_path) if one["type"] in ("evaluation", "test")]
        last = {one.get("name", "evaluation"): index for index, one in enumerate(tests)}
        if last.get("metasearch", -1) < last["evaluation"]:
            found = [one for one in read_journal(directory.journal_path) if one["type"] == "test"][-1]
            figures = {key: found[key] for key in ("L", "L_ci95", "metrics", "metrics_ci95", "episodes", "parameters")}
            refitted = {"steps": steps, "folder": folder, "changes": recorded(changes)}
            self._record("test", name="metasearch", **figures, seconds=found["seconds"], refitted=refitted)
        return "finished", ""

    def _derived(self, controller: Controller, held_out: HeldOut, phi: Phi) -> Phi:
        """Phi with the architecture that is drawn from the supernet, which is stored in its place."""
        settings, experiment = self._experiment.file.test, self._experiment
        assert settings is not None
        assert settings.derive is not None
        self._phase("deriving an architecture")
        component = experiment.program.learner(phi.choices).slots["architecture"]  # type: ignore[attr-defined]
        if hasattr(component, "derived"):
            own = component.derived(phi.part("architecture"))
            chosen = {f"learner.slots.architecture.{place}": name for place, name in own.items()}
            self._record("event", event="derive", detail={"choices": chosen})
        else:
            seed = seeding.derive(experiment.file.seed, "derive")
            found = held_out.compare(phi, controller.searcher.candidates(settings.derive.sample, seed))  # type: ignore[attr-defined]
            best = min(found, key=lambda one: one["L"] if one["L"] == one["L"] else float("inf"))
            chosen = best["choices"]
            self._record("event", event="derive", detail={"choices": chosen, "L": best["L"], "candidates": found})
        phi = phi.replace(choices={**phi.choices, **chosen})
        self._outputs.phi(phi, controller.best or {"step": controller.step})
        return phi


def finished(directory: RunDirectory) -> bool:
    """Whether the last driver of a run came to its end."""
    records = read_journal(directory.journal_path) if directory.journal_path.exists() else []
    ends = [one["status"] for one in records if one["type"] == "end"]
    return ends[-1:] == ["finished"]
