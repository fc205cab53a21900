"""What follows from a record reaches the disk after the record, so that a power cut leaves nothing ahead of it."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import metasearch as ms
from metasearch.controller import Controller
from metasearch.core.errors import JournalError
from metasearch.execution.inline import Inline
from metasearch.outputs import Outputs
from metasearch.tracking import mlflow_session
from metasearch.tracking.checkpoints import Checkpoints
from metasearch.tracking.journal import read
from metasearch.trees import override

SHORT: dict[str, Any] = {
    "evaluation.tasks": 2,
    "evaluation.shard": 2,
    "validation": {"every": 1, "episodes": 4},
    "test": None,
    "budget.steps": 4,
}

Tree = dict[str, Any]
Look = Callable[[], tuple[int, int]]
"""Bytes of the newest run's journal, and of these those on disk."""


@pytest.fixture
def short(tiny: Tree) -> Tree:
    return override(tiny, SHORT)


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    flushed: dict[int, int] = {}
    real = os.fsync

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        flushed[status.st_ino] = status.st_size
        real(descriptor)

    def now() -> tuple[int, int]:
        journal = max(tmp_path.glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        return journal.stat().st_size, flushed.get(journal.stat().st_ino, 0)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr("metasearch.tracking.journal.SYNC_S", 1e9)  # nothing is flushed because of the time
    return now


def before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, look: Look) -> list[tuple[int, int]]:
    """What stands on disk whenever a method is called."""
    seen, real = [], getattr(owner, name)

    def spied(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(look())
        return real(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, spied)
    return seen


@pytest.mark.parametrize(("owner", "name"), [(Checkpoints, "save"), (Outputs, "phi")])
def test_records_are_on_disk_before_checkpoints_and_phi(
    owner: Any, name: str, short: Tree, look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = before(monkeypatch, owner, name, look)
    ms.run(short, runs=tmp_path)
    assert len(seen) >= 2
    assert all(size == flushed for size, flushed in seen)


def test_records_are_on_disk_before_mlflow_has_them(
    short: Tree, look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    real = mlflow_session.tail
    monkeypatch.setattr(mlflow_session, "tail", lambda *args: (seen.append(look()), real(*args))[1])
    ms.run(override(short, {"tracking.mlflow": f"sqlite:///{tmp_path / 'mlflow.db'}"}), runs=tmp_path)
    assert seen
    assert all(size == flushed for size, flushed in seen)


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_an_evaluation_that_took_long_is_on_disk_before_the_next_call(
    seconds: float, short: Tree, look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Controller._combine

    def slow(self: Controller, *args: Any) -> Any:
        return dataclasses.replace(real(self, *args), seconds=seconds)

    told = before(monkeypatch, Controller, "_tell", look)
    monkeypatch.setattr(Controller, "_combine", slow)
    ms.run(override(short, {"validation": None, "checkpoints.every": 100}), runs=tmp_path)
    assert len(told) == 4
    assert all((size == flushed) == (seconds >= 0.2) for size, flushed in told)


def test_records_are_on_disk_while_the_driver_waits(
    short: Tree, look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[tuple[int, int]] = []
    real = Inline.wait

    def wait(self: Inline, timeout_s: float | None = None) -> Any:
        waits.append(look())
        return [] if len(waits) % 2 else real(self, timeout_s)  # every other time nothing has come

    monkeypatch.setattr(Inline, "wait", wait)
    ms.run(override(short, {"validation": None, "checkpoints.every": 100}), runs=tmp_path)
    assert all(size == flushed for size, flushed in waits[1::2])
    assert any(size != flushed for size, flushed in waits[::2])


def test_a_search_that_ended_shows_damage_wherever_it_is(short: Tree, tmp_path: Path) -> None:
    path = ms.run(short, runs=tmp_path).directory.journal_path
    whole = path.read_bytes()
    for place in (whole.index(b'"step":'), whole.rindex(b'"L":')):
        path.write_bytes(whole[:place] + b"#" + whole[place + 1 :])
        with pytest.raises(JournalError, match="damaged"):
            read(path)
