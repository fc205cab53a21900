from pathlib import Path
from typing import Any

import pytest

from metasearch.tracking.journal import Journal
from metasearch.tracking.rundir import RunDirectory
from metasearch.tracking.runs import list_runs


def recorded(root: Path, folder: str, records: list[tuple[str, dict[str, Any]]]) -> RunDirectory:
    run = RunDirectory.create(root, "x", "", folder=folder)
    with Journal.open(run.journal_path) as journal:
        journal.append("start", run=folder, name="x")
        for type_, fields in records:
            journal.append(type_, **fields)
    return run


WORK: list[tuple[str, dict[str, Any]]] = [
    ("evaluation", {"id": 0, "step": 0, "L": 1.0}),
    ("evaluation", {"id": 1, "step": 0, "L": 2.0}),
    ("validation", {"step": 1, "L": 0.9, "metrics": {"accuracy": 0.5}, "best": True}),
    ("evaluation", {"id": 2, "step": 1, "L": 1.0}),
    ("validation", {"step": 2, "L": 0.95, "metrics": {"accuracy": 0.4}, "best": False}),
]


def test_a_summary_has_steps_evaluations_best_and_time(tmp_path: Path) -> None:
    run = recorded(tmp_path, "a", [*WORK, ("end", {"status": "finished", "reason": "steps"})])
    (summary,) = list_runs(tmp_path)
    assert (summary.id, summary.name, summary.path, summary.status) == ("a", "x", run.path, "finished")
    assert (summary.steps, summary.evaluations) == (2, 3)
    assert summary.best == {"L": 0.9, "accuracy": 0.5}
    assert summary.started is not None
    assert summary.seconds >= 0


@pytest.mark.parametrize(
    ("records", "status"),
    [
        ([], "interrupted"),
        (WORK, "interrupted"),
        ([("end", {"status": "diverged"})], "diverged"),
        (
            [("end", {"status": "interrupted"}), ("event", {"event": "resume"}), ("end", {"status": "finished"})],
            "finished",
        ),
        ([("end", {"status": "finished"}), ("event", {"event": "extend"})], "interrupted"),
        ([("end", {"status": "finished"}), ("test", {"name": "metasearch"})], "finished"),
    ],
)
def test_the_status_is_what_the_record_says(
    tmp_path: Path, records: list[tuple[str, dict[str, Any]]], status: str
) -> None:
    recorded(tmp_path, "a", records)
    assert [summary.status for summary in list_runs(tmp_path)] == [status]


def test_a_run_that_is_driven_is_running(tmp_path: Path) -> None:
    run = recorded(tmp_path, "a", WORK)
    with run.lock():
        assert list_runs(tmp_path)[0].status == "running"


def test_a_run_without_records_is_new_and_a_damaged_one_is_listed(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, "x", "", folder="fresh")
    damaged = recorded(tmp_path, "broken", WORK)
    damaged.journal_path.write_text("rubbish\n" + damaged.journal_path.read_text())
    assert {summary.path.name: summary.status for summary in list_runs(tmp_path)} == {
        "fresh": "new",
        "broken": "damaged",
    }


def test_a_folder_without_runs_lists_none(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert list_runs(tmp_path) == []
    assert list_runs(tmp_path / "missing") == []
