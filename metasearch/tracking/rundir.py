"""A run's directory: where everything about one search is, and who may drive it.

``runs/<name>-<YYYYmmdd-HHMMSS>-<id>/`` holds config.yaml (resolved), journal.jsonl, checkpoints/, phi/, results.json,
report.html and run.lock. The folder's name is the run's id; six hexadecimal digits at its end are its short id.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from metasearch.core.errors import ConfigError, RunLockedError
from metasearch.core.files import from_json, to_json, write_file
from metasearch.tracking.checkpoints import Checkpoints, load_checkpoint
from metasearch.tracking.journal import tail

__all__ = ["RunDirectory"]

_FOLDER = re.compile(r"(?P<name>.+)-\d{8}-\d{6}-(?P<short>[0-9a-f]{6})")
_LOCK_ATTEMPTS, _LOCK_PAUSE_S = 5, 0.1


class RunDirectory:
    """The files of one run; reading needs nothing, writing needs :meth:`lock`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    @classmethod
    def create(cls, root: Path | str, name: str, config_yaml: str, *, folder: str | None = None) -> RunDirectory:
        """A new run under ``root``, with its resolved configuration.

        Args:
            root: folder of all runs, made if need be.
            name: the experiment's name; what a file name cannot hold becomes ``-``.
            config_yaml: the resolved configuration, as text.
            folder: name of the folder, where it must be known beforehand (a search within a search).

        Raises:
            FileExistsError: if ``folder`` is given and exists.
        """
        slug = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
        while True:
            path = Path(root) / (folder or f"{slug}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}")
            try:
                path.mkdir(parents=True)
                break
            except FileExistsError:
                if folder:
                    raise
        run = cls(path)
        write_file(run.config_path, config_yaml)
        return run

    @classmethod
    def open(cls, reference: Path | str, root: Path | str = "runs") -> RunDirectory:
        """A run by its path, its id, its short id, or the beginning of either if that fits one run only.

        Raises:
            ConfigError: if none or several runs fit, listing the candidates.
        """
        if str(reference) and _is_run(Path(reference)):
            return cls(reference)
        folders = list_folders(root)
        text = str(reference)
        exact = [path for path in folders if text in (path.name, _short(path))]
        fitting = exact or [
            path for path in folders if text and (path.name.startswith(text) or _short(path).startswith(text))
        ]
        if len(fitting) == 1:
            return cls(fitting[0])
        candidates = ", ".join(path.name for path in fitting or folders) or "none"
        if fitting:
            raise ConfigError(
                "", f"{text!r} fits {len(fitting)} runs in {root}; give more of the id. Candidates: {candidates}"
            )
        raise ConfigError(
            "", f"no run {text!r} in {root}; give a run's path, its id or the beginning of it. Runs there: {candidates}"
        )

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def journal_path(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def phi_path(self) -> Path:
        return self.path / "phi"

    @property
    def results_path(self) -> Path:
        return self.path / "results.json"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    @property
    def lock_path(self) -> Path:
        return self.path / "run.lock"

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(self.path / "checkpoints")

    @property
    def id(self) -> str:
        """The run's id: what its journal says, so that a renamed folder stays the same run; else the folder's name."""
        return str(self.started().get("run", self.path.name))

    @property
    def name(self) -> str:
        """The experiment's name."""
        match = _FOLDER.fullmatch(self.path.name)
        return str(self.started().get("name", match["name"] if match else self.path.name))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the right to drive this run; the system gives it back when the process ends, however it ends.

        Raises:
            RunLockedError: if another driver holds it, naming its process and host.
        """
        descriptor = os.open(self.lock_path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _acquire(descriptor):
                raise RunLockedError(
                    f"{self.path.name} is being driven by {self._holder()}; "
                    f"wait until it ends, or stop that process, then try again"
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def locked(self) -> bool:
        """Whether somebody drives this run now."""
        if not self.lock_path.exists():
            return False
        descriptor = os.open(self.lock_path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)

    def save_checkpoint(self, step: int, tree: Any, *, best: bool = False) -> Path:
        """See :meth:`Checkpoints.save`."""
        return self.checkpoints.save(step, tree, best=best)

    def load_checkpoint(self, path: Path | str) -> Any:
        """See :func:`load_checkpoint`; a relative path is one within this run."""
        return load_checkpoint(self.path / path)

    def latest_checkpoint(self, max_step: int | None = None) -> Path | None:
        """See :meth:`Checkpoints.latest`."""
        return self.checkpoints.latest(max_step)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Writes results.json; nan and inf become strings.

        Raises:
            TypeError: if a result is no plain value.
        """
        write_file(self.results_path, to_json(results, indent=2) + "\n")

    def read_results(self) -> dict[str, Any] | None:
        """What results.json holds, or None while there is none.

        Raises:
            ConfigError: if the file is not JSON.
        """
        if not self.results_path.exists():
            return None
        try:
            results: dict[str, Any] = from_json(self.results_path.read_bytes())
        except ValueError as error:
            raise ConfigError(
                "", f"{self.results_path} is not JSON ({error}); delete it and write the results again"
            ) from error
        return results

    def started(self) -> Mapping[str, Any]:
        """The record with which the journal begins; empty before there is one."""
        if not self.journal_path.exists():
            return {}
        first = tail(self.journal_path, limit=1)[0]
        return first[0] if first and first[0]["type"] == "start" else {}

    def _holder(self) -> str:
        with suppress(ValueError, KeyError, OSError):
            holder = json.loads(self.lock_path.read_bytes())
            return f"process {holder['pid']} on host {holder['host']}"
        return "another process"


def list_folders(root: Path | str) -> list[Path]:
    """The run directories under ``root``, oldest first."""
    root = Path(root)
    found = [path for path in root.iterdir() if _is_run(path)] if root.is_dir() else []
    return sorted(found, key=lambda path: (path / "config.yaml").stat().st_mtime_ns)


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def _short(path: Path) -> str:
    match = _FOLDER.fullmatch(path.name)
    return match["short"] if match else path.name


def _acquire(descriptor: int) -> bool:
    """Tries more than once, since listing runs holds the lock for an instant to see whether it is free."""
    for attempt in range(_LOCK_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if attempt + 1 < _LOCK_ATTEMPTS:
                time.sleep(_LOCK_PAUSE_S)
    return False
