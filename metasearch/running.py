"""The life of a run: start, resume, extend, and what stands at its end."""

from __future__ import annotations

import dataclasses
import logging
import platform
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from metasearch import artifacts
from metasearch.assembly import initial_phi, open_executor, plan_of, stops_on_interrupt, stored
from metasearch.controller import Controller
from metasearch.core import seeds as seeding
from metasearch.core.errors import ConfigError, DivergedError, ExecutionError, MetasearchError
from metasearch.core.values import Phi
from metasearch.experiment import Experiment
from metasearch.heldout import HeldOut, names_of
from metasearch.outputs import Outputs
from metasearch.plan import Record
from metasearch.resolution import again, load
from metasearch.results import best_proposal, best_validations, schedule_of
from metasearch.tracking import Journal, RunDirectory
from metasearch.tracking.journal import read as read_journal
from metasearch.trees import override, recorded

__all__ = ["Listener", "Outcome", "extend", "finished", "resume", "run"]

_log = logging.getLogger(__name__)

BEFORE = "before_refit"
"""Name of the test of the phi that validation selected, where another one is reported (``test.refit``)."""


ENSEMBLE = "ensemble_of_"
"""Beginning of the name of the test of a mean prediction (``test.ensemble``); their number follows."""


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
            self._conclude(controller, held_out, history, record)
        if file.test is not None and file.test.refit is not None:
            ended = self._refit(file.test.refit, controller, record)
            if ended is not None:
                record("end", status=ended.status, reason=ended.reason)
                return ended.status, ended.reason
        record("end", status="finished", reason="the budget is spent")
        return "finished", "the budget is spent"

    def _conclude(
        self, controller: Controller, held_out: HeldOut, history: Sequence[Record], record: Callable[..., Record]
    ) -> None:
        """Saves the reported phi and takes the test; figures that the record has already are not taken again."""
        records = read_journal(self.directory.journal_path)
        best = best_proposal(records, self.experiment.file.constraints)
        if controller.best is None:
            schedule = schedule_of(records, best["id"]) if best else []
            chosen = schedule[-1]["choices"] if schedule else best and best["choices"]
            self._outputs.phi(controller.phi(chosen), {"step": controller.step}, schedule)
        settings = self.experiment.file.test
        if settings is None or self.experiment.trials:
            return
        name = "metasearch" if settings.refit is None else BEFORE
        done = {one["name"] for one in history if one["type"] == "test"}
        kinds = [one["type"] for one in records if one["type"] in ("evaluation", "test")]
        if kinds[-1:] == ["evaluation"]:  # their figures are of earlier phis: the search went on
            done -= {name, *(one for one in done if one.startswith(ENSEMBLE))}
        phi = artifacts.load(self._outputs.selected_path).phi
        if settings.derive is not None and name not in done:
            phi = self._derived(controller, held_out, phi, record)
        if name not in done and not self.experiment.episodes:
            self.listener.on_phase("test of the best proposal")
            record("test", name=name, **held_out.single(phi))
        elif name not in done:
            self.listener.on_phase(f"test on {settings.episodes} held-out tasks")
            record("test", name=name, **held_out.test(phi))
            self._outputs.pictures(held_out.pictures(phi))
        members = self._best_validations()
        name = f"{ENSEMBLE}{len(members)}"
        if members and name not in done:
            self.listener.on_phase(f"mean prediction of the {len(members)} best by validation")
            record("test", name=name, **held_out.ensemble(self._outputs.members(members)))
        for name in names_of(settings.baselines):
            if name not in done:
                self.listener.on_phase(f"baseline {name}")
                record("test", name=name, **held_out.baseline(name))

    def _refit(
        self, changes: Mapping[str, Any], controller: Controller, record: Callable[..., Record]
    ) -> Outcome | None:
        """Trains phi again for the number of steps that was found, as a run in a folder of this one, and takes over its
        phi and test figure; the outcome if it did not end.
        """
        if controller.best is None:
            raise ExecutionError("no validation had a finite figure, so nothing says for how many steps to train again")
        steps = controller.best["step"]
        experiment, folder = again(self.experiment, steps), f"refitted-{steps}"
        directory = RunDirectory(self.directory.path / folder)
        if not directory.config_path.exists():
            shutil.rmtree(directory.path, ignore_errors=True)
            text = yaml.safe_dump(recorded(experiment.tree), sort_keys=False, allow_unicode=True)
            directory = RunDirectory.create(self.directory.path, experiment.file.name, text, folder=folder)
        if not finished(directory):
            self.listener.on_phase(f"training again from the start, {steps} steps")
            outcome = _Drive(directory, experiment, Silent(), None, None).go()
            if outcome.status != "finished":
                return outcome
        stored_phi = artifacts.load(directory.phi_path)
        artifacts.save(self.directory.phi_path, stored_phi.phi, stored_phi.manifest)
        tests = [one for one in read_journal(self.directory.journal_path) if one["type"] in ("evaluation", "test")]
        last = {one.get("name", "evaluation"): index for index, one in enumerate(tests)}
        if last.get("metasearch", -1) < last["evaluation"]:
            found = [one for one in read_journal(directory.journal_path) if one["type"] == "test"][-1]
            figures = {key: found[key] for key in ("L", "L_ci95", "metrics", "metrics_ci95", "episodes", "parameters")}
            refitted = {"steps": steps, "folder": folder, "changes": recorded(changes)}
            record("test", name="metasearch", **figures, seconds=found["seconds"], refitted=refitted)
        return None

    def _derived(self, controller: Controller, held_out: HeldOut, phi: Phi, record: Callable[..., Record]) -> Phi:
        """Phi with the architecture that is drawn from the supernet, which is stored in its place."""
        settings, experiment = self.experiment.file.test, self.experiment
        assert settings is not None
        assert settings.derive is not None
        self.listener.on_phase("deriving an architecture")
        component = experiment.program.learner(phi.choices).slots["architecture"]  # type: ignore[attr-defined]
        if hasattr(component, "derived"):
            own = component.derived(phi.part("architecture"))
            chosen = {f"learner.slots.architecture.{place}": name for place, name in own.items()}
            record("event", event="derive", detail={"choices": chosen})
        else:
            seed = seeding.derive(experiment.file.seed, "derive")
            found = held_out.compare(phi, controller.searcher.candidates(settings.derive.sample, seed))  # type: ignore[attr-defined]
            best = min(found, key=lambda one: one["L"] if one["L"] == one["L"] else float("inf"))
            chosen = best["choices"]
            record("event", event="derive", detail={"choices": chosen, "L": best["L"], "candidates": found})
        phi = phi.replace(choices={**phi.choices, **chosen})
        self._outputs.phi(phi, controller.best or {"step": controller.step})
        return phi

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


def finished(directory: RunDirectory) -> bool:
    """Whether the last driver of a run came to its end."""
    records = read_journal(directory.journal_path) if directory.journal_path.exists() else []
    ends = [one["status"] for one in records if one["type"] == "end"]
    return ends[-1:] == ["finished"]


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
