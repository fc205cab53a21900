"""What a run leaves in its directory beside the record: phi, results.json, the report and its pictures."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metasearch import artifacts
from metasearch.core.files import write_file
from metasearch.core.registry import import_path
from metasearch.core.values import Phi, TaskSpec
from metasearch.experiment import Experiment
from metasearch.plan import Record
from metasearch.results import summarize_run
from metasearch.tracking import RunDirectory
from metasearch.trees import recorded

__all__ = ["Outputs"]


class Outputs:
    """Writes a run's outputs; each write replaces what was there before.

    Args:
        directory: the run's.
        experiment: what is run.
    """

    def __init__(self, directory: RunDirectory, experiment: Experiment) -> None:
        self._directory, self._experiment = directory, experiment
        self._refits = experiment.file.test is not None and experiment.file.test.refit is not None

    def phi(self, phi: Phi, record: Record, schedule: Sequence[Record] = ()) -> None:
        """Writes the artifact of the best phi so far, with the schedule that a population found."""
        manifest = self._manifest(record, schedule)
        artifacts.save(self._directory.phi_path, phi, manifest)
        if self._refits:
            artifacts.save(self.selected_path, phi, manifest)

    def member(self, phi: Phi, record: Record, best: Sequence[Record]) -> None:
        """Keeps the phi of a validation if that is among the best ones, and of earlier phis only theirs.

        Args:
            phi: what was validated.
            record: its validation.
            best: the best validations of the whole record. After a stop these may be ahead of ``record``; what they
                have displaced never comes back.
        """
        folders = [self._member(one) for one in best]
        if self._member(record) in folders:
            artifacts.save(self._member(record), phi, self._manifest(record))
        for entry in self._members.iterdir() if self._members.is_dir() else ():
            if entry not in folders:
                shutil.rmtree(entry)

    def members(self, best: Sequence[Record]) -> list[Phi]:
        """The phis of the best validations.

        Raises:
            ArtifactError: if one is not there.
        """
        return [artifacts.load(self._member(one)).phi for one in best]

    @property
    def _members(self) -> Path:
        return self._directory.path / "members"

    def _member(self, record: Record) -> Path:
        return self._members / f"{record['step']:08d}"

    def _manifest(self, record: Record, schedule: Sequence[Record] = ()) -> artifacts.Manifest:
        tree = recorded(self._experiment.tree)
        learner = tree.get("learner") or {}
        slots = learner.get("slots", {}) if isinstance(learner, Mapping) else {}
        validation = {"L": record["L"], **record["metrics"]} if "L" in record else {}
        widths = {f"{name}_ci95": value for name, value in record.get("metrics_ci95", {}).items()}
        program = self._experiment.program
        spec = None if self._experiment.file.tasks is None else program.tasks.spec("train")
        return artifacts.Manifest(
            components={name: str(settings.get("type")) for name, settings in slots.items()},
            model=learner.get("model", {})
            if isinstance(learner, Mapping) and isinstance(learner.get("model"), Mapping)
            else {},
            config=tree,
            provenance=artifacts.Provenance(
                run=self._directory.id,
                evaluations=record["step"],
                selected_step=record["step"],
                seeds={"search": self._experiment.file.seed},
                split=tree["tasks"] if isinstance(tree.get("tasks"), Mapping) else {},
                validation={**validation, **widths},
            ),
            spec={} if spec is None else _shapes(spec),
            schedule=list(schedule),
        )

    @property
    def selected_path(self) -> Path:
        """Where the phi is that the search itself selected, if another one is reported after a refit."""
        return self._directory.path / "selected" if self._refits else self._directory.phi_path

    def pictures(self, pictures: Mapping[str, Any] | None) -> None:
        """Keeps adapted episodes for the report."""
        if pictures is not None and self._experiment.file.tracking.report:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **pictures)
            (self._directory.path / "figures").mkdir(exist_ok=True)
            write_file(self._directory.path / "figures" / "episodes.npz", buffer.getvalue())

    def results(self, records: Sequence[Record]) -> dict[str, Any]:
        """results.json, from a finished run's record."""
        results = summarize_run(self._experiment, self._directory, records)
        self._directory.write_results(results)
        return results

    def report(self) -> None:
        """report.html and the plots in it."""
        from metasearch.reporting import plots, write_report

        write_report(self._directory.path)
        (self._directory.path / "plots").mkdir(exist_ok=True)
        for name, picture in plots(self._directory.path).items():
            write_file(self._directory.path / "plots" / f"{name}.png", picture)


def _shapes(spec: TaskSpec) -> dict[str, Any]:
    """What a manifest keeps of a task's shapes: the loss and the world by their import paths."""
    world = spec.environment
    environment = None if world is None else {"type": import_path(type(world)), **recorded(world.config)}
    return {**vars(spec), "loss": spec.loss and import_path(spec.loss), "environment": environment}
