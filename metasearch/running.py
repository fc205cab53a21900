"""The life of a run: start, resume and extend."""

from __future__ import annotations

import dataclasses
import logging
import platform
import shlex
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from metasearch import artifacts
from metasearch.assembly import initial_phi, open_executor, plan_of, stops_on_interrupt, stored
from metasearch.conclusion import Conclusion
from metasearch.controller import Controller
from metasearch.core import seeds as seeding
from metasearch.core.errors import ConfigError, DivergedError, MetasearchError
from metasearch.core.values import Phi
from metasearch.experiment import Experiment
from metasearch.heldout import HeldOut
from metasearch.outputs import Outputs
from metasearch.plan import Record
from metasearch.resolution import load
from metasearch.results import best_validations
from metasearch.tracking import Journal, RunDirectory
from metasearch.tracking.journal import read as read_journal
from metasearch.trees import override, recorded

__all__ = ["Listener", "Outcome", "extend", "resume", "run"]

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """What a display implements; the search never depends on what it does."""

    def on_start(self, directory: RunDirectory, experiment: Experiment, info: Mapping[str, Any]) -> None:
        """Before the first ask; ``info`` says whether this is a resume and from which step."""
        ...

    def on_record(self, record: Record) -> None:
        """After each record of the journal."""
        ...

    def on_phase(self, text: str) -> None:
        """What happens now, where it may take a while."""
        ...

    def on_end(self, outcome: Outcome) -> None:
        """After everything is on disk."""
        ...


class Silent:
    """A listener that does nothing."""

    def on_start(self, directory: RunDirectory, experiment: Experiment, info: Mapping[str, Any]) -> None: ...
    def on_record(self, record: Record) -> None: ...
    def on_phase(self, text: str) -> None: ...
    def on_end(self, outcome: Outcome) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Args:
        directory: its files.
        status: ``finished``, ``interrupted``, ``diverged`` or ``failed``.
        reason: why, in words.
        results: results.json, if the test was taken.
        urls: MLflow pages that show it.
    """

    directory: RunDirectory
    status: str
    reason: str = ""
    results: dict[str, Any] | None = None
    urls: Mapping[str, str] = field(default_factory=dict)

    @property
    def phi_path(self) -> Path:
        """Where the reported phi is."""
        return self.directory.phi_path

    @property
    def pareto(self) -> list[dict[str, Any]]:
        """What no other evaluation beats in every objective: ``evaluation``, ``choices``, ``values``; empty for one L.

        It is there once the run has finished.
        """
        return list((self.results or {}).get("pareto") or [])


def run(
    experiment: Experiment,
    *,
    root: Path | str = "runs",
    folder: str | None = None,
    listener: Listener | None = None,
    on_validation: Callable[[Record], None] | None = None,
    mlflow_parent: str | None = None,
) -> Outcome:
    """Runs an experiment to the end of its budget.

    Args:
        experiment: see :func:`metasearch.resolution.load`.
        root: folder of run directories.
        folder: name of the directory, where it must be known beforehand.
        listener: a display.
        on_validation: called with each validation record (a search around this one reports it).
        mlflow_parent: MLflow run under which this one is filed.

    Raises:
        MetasearchError: if the search failed; its record says so, too.
    """
    text = yaml.safe_dump(recorded(experiment.tree), sort_keys=False, allow_unicode=True)
    directory = RunDirectory.create(root, experiment.file.name, text, folder=folder)
    _note_objects(experiment)
    return _Drive(directory, experiment, listener or Silent(), on_validation, mlflow_parent).go()


def resume(
    reference: Path | str,
    *,
    root: Path | str = "runs",
    listener: Listener | None = None,
    objects: Mapping[str, Any] | None = None,
    on_validation: Callable[[Record], None] | None = None,
    mlflow_parent: str | None = None,
) -> Outcome:
    """Continues a run where its record ends; the result is that of an undisturbed run.

    Args:
        reference: path, id or unique prefix of a run.
        root: folder of run directories.
        listener: a display.
        objects: blocks (``tasks``, ``learner`` ...) that were given as objects when the run was started.
        on_validation: called with each validation record (a search around this one reports it).
        mlflow_parent: MLflow run under which this one is filed.

    Raises:
        ResumeError: if the run cannot be continued exactly.
        RunLockedError: if another driver holds it.
    """
    directory = RunDirectory.open(reference, root)
    return _Drive(directory, stored(directory, objects), listener or Silent(), on_validation, mlflow_parent).go()


def extend(
    reference: Path | str,
    assignments: Sequence[str] | Mapping[str, Any],
    *,
    root: Path | str = "runs",
    listener: Listener | None = None,
    objects: Mapping[str, Any] | None = None,
) -> Outcome:
    """Gives a run a larger budget and continues it.

    Args:
        reference: path, id or unique prefix of a run.
        assignments: new values of ``budget.*``, as for ``--set``.
        root: folder of run directories.
        listener: a display.
        objects: blocks (``tasks``, ``learner`` ...) that were given as objects when the run was started.

    Raises:
        ConfigError: if something else than the budget is to change, or nothing.
    """
    directory = RunDirectory.open(reference, root)
    keys = (
        list(assignments)
        if isinstance(assignments, Mapping)
        else [one.partition("=")[0].strip() for one in assignments]
    )
    other = [key for key in keys if not key.startswith("budget.")]
    if other or not keys:
        raise ConfigError(
            other[0] if other else "budget",
            "extend changes the budget only (budget.steps=...); for anything else start a new run",
        )
    with directory.lock():
        tree = override(yaml.safe_load(directory.config_path.read_text("utf-8")), assignments)
        load(tree)
        temporary = directory.config_path.with_suffix(".new")
        temporary.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), "utf-8")
        temporary.replace(directory.config_path)
        with Journal.open(directory.journal_path) as journal:
            journal.append("event", event="extend", detail={"budget": tree["budget"]})
    return resume(directory.path, root=root, listener=listener, objects=objects)


class _Drive:
    """One driver's time with a run."""

    def __init__(
        self,
        directory: RunDirectory,
        experiment: Experiment,
        listener: Listener,
        on_validation: Callable[[Record], None] | None,
        mlflow_parent: str | None,
    ) -> None:
        self.directory, self.listener = directory, listener
        self.experiment = experiment.with_run(directory.path)
        self._on_validation = on_validation
        self._mlflow_parent = mlflow_parent
        self._view: Any = None
        self._outputs = Outputs(self.directory, self.experiment)
        self._validations: list[Record] = []

    def go(self) -> Outcome:
        """Drives the run until it ends or is interrupted."""
        with self.directory.lock():
            history = read_journal(self.directory.journal_path) if self.directory.journal_path.exists() else []
            with Journal.open(self.directory.journal_path) as journal:
                self._open_view()
                try:
                    status, reason = self._drive(journal, history)
                except DivergedError as error:
                    status, reason = "diverged", str(error)
                    journal.append("end", status=status, reason=reason)
                except MetasearchError as error:
                    journal.append("end", status="failed", reason=str(error).splitlines()[0])
                    self.listener.on_end(self._finish(journal, "failed", str(error)))
                    raise
                outcome = self._finish(journal, status, reason)
        self.listener.on_end(outcome)
        return outcome

    def _drive(self, journal: Journal, history: list[Record]) -> tuple[str, str]:
        experiment, directory = self.experiment, self.directory
        file, seed = experiment.file, experiment.file.seed
        self._validations = [one for one in history if one["type"] == "validation"]
        path = directory.latest_checkpoint()
        checkpoint = None if path is None else directory.load_checkpoint(path)
        record = self._recorder(journal)
        info = {"resumed": bool(history), "step": 0 if checkpoint is None else checkpoint["step"]}
        self.listener.on_start(directory, experiment, info)
        if history:
            record("event", event="resume", detail={"step": info["step"], "host": socket.gethostname()})
        else:
            record("start", **_start_fields(directory, experiment))
        program = experiment.program

        def started(start: artifacts.Start) -> None:
            if not history:
                _log.warning("%s", start)
                record("event", event="initialization", detail=dataclasses.asdict(start))

        phi = initial_phi(program, seed, started)
        searcher = experiment.searcher(phi, seeding.derive(seed, "searcher"))
        self.listener.on_phase("starting workers")
        with open_executor(experiment, directory.path, history) as executor:
            held_out = HeldOut(program, executor, seed)
            controller = Controller(
                searcher,
                program.function("train"),
                executor,
                journal,
                directory,
                plan_of(experiment, experiment.in_flight(searcher)),
                base=phi,
                history=history,
                checkpoint=checkpoint,
                validate=held_out.validate if file.validation and experiment.episodes else None,
                on_validation=self._validated,
                on_record=self._on_record,
            )
            # On the driver, too, one thread: a second one would wait for cores that the workers keep busy.
            with stops_on_interrupt(controller), program.numerics():
                controller.run()
            if controller.stopping:
                record("end", status="interrupted", reason="stopped by the user")
                return "interrupted", "stopped by the user"
            conclusion = Conclusion(experiment, directory, self._outputs, self.listener.on_phase, record)
            conclusion.measure(controller, held_out, history, self._best_validations())
        if file.test is not None and file.test.refit is not None:
            status, reason = conclusion.refit(file.test.refit, controller, self._inner)
            if status != "finished":
                record("end", status=status, reason=reason)
                return status, reason
        record("end", status="finished", reason="the budget is spent")
        return "finished", "the budget is spent"

    @staticmethod
    def _inner(directory: RunDirectory, experiment: Experiment) -> tuple[str, str]:
        """Drives a run that is a part of this one; how it ended, and why."""
        outcome = _Drive(directory, experiment, Silent(), None, None).go()
        return outcome.status, outcome.reason

    def _finish(self, journal: Journal, status: str, reason: str) -> Outcome:
        """Results, report and MLflow."""
        results = self._outputs.results(read_journal(self.directory.journal_path)) if status == "finished" else None
        if self.experiment.file.tracking.report:
            self.listener.on_phase("writing the report")
            self._outputs.report()
        urls: Mapping[str, str] = {}
        if self._view is not None:
            self._view.close()
            urls = self._view.urls()
        return Outcome(self.directory, status, reason, results, urls)

    def _recorder(self, journal: Journal) -> Callable[..., Record]:
        def record(type: str, /, **fields: Any) -> Record:
            written = journal.append(type, **fields)
            self._on_record(written)
            return written

        return record

    def _on_record(self, record: Record) -> None:
        self.listener.on_record(record)
        if record["type"] == "validation":
            self._validations.append(record)
            if self._on_validation is not None:
                self._on_validation(record)
        if self._view is not None:
            self._view.sync()

    def _validated(self, phi: Phi, record: Record) -> None:
        """Stores phi if it is the best so far, and if it is one of the best that ``test.ensemble`` asks for."""
        if record["best"]:
            self._outputs.phi(phi, record)
        if best := self._best_validations():
            self._outputs.member(phi, record, best)

    def _best_validations(self) -> list[Record]:
        """Those whose phis ``test.ensemble`` averages."""
        validation, test = self.experiment.file.validation, self.experiment.file.test
        if validation is None or test is None or test.ensemble is None:
            return []
        return best_validations(self._validations, validation.select, test.ensemble)

    def _open_view(self) -> None:
        settings = self.experiment.file.tracking
        if settings.mlflow is False:
            return
        from metasearch.tracking.mlflow import MlflowView

        self._view = MlflowView(
            settings.mlflow if isinstance(settings.mlflow, str) else None,
            settings.experiment or self.experiment.file.name,
            self.directory.id,
            self.directory.path,
            config=recorded(self.experiment.tree),
            children="all" if settings.children == "auto" else settings.children,
            parent_run_id=self._mlflow_parent,
        )


def _start_fields(directory: RunDirectory, experiment: Experiment) -> dict[str, Any]:
    file = experiment.file
    return {
        "run": directory.id,
        "name": file.name,
        "versions": artifacts.current_versions(),
        "seed_algorithm": seeding.ALGORITHM,
        "numerics": file.numerics.model_dump(),
        "workers": file.execution.workers,
        "folder": experiment.blueprint.folders[0],
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "command": shlex.join(["metasearch", *sys.argv[1:]])
        if Path(sys.argv[0]).name in ("metasearch", "__main__.py")
        else shlex.join(["python", *sys.argv]),
    }


def _note_objects(experiment: Experiment) -> None:
    """Says at the start what only the same script can resume."""
    text = str(recorded(experiment.tree))
    if "'object':" in text or "__main__:" in text or "<locals>" in text:
        _log.warning("this experiment holds objects of the running script: only that script can resume it (ms.resume)")
