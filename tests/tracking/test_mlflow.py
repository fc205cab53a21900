import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from metasearch.core.errors import ConfigError, JournalError
from metasearch.core.faults import VARIABLE
from metasearch.tracking.journal import Journal
from metasearch.tracking.mlflow import MlflowView, child_limit
from metasearch.tracking.rundir import RunDirectory

CONFIG = {"seed": 3, "tasks": {"ways": 5}, "validation": {"select": "accuracy"}}
RUN = "x-20260101-000000-abc123"

SYNC = """
import sys
from metasearch.tracking.mlflow import MlflowView
uri, run, folder = sys.argv[1:]
config = {"seed": 3, "tasks": {"ways": 5}, "validation": {"select": "accuracy"}}
MlflowView(uri, "test", run, folder, config=config).close()
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "runs", "x", "seed: 3\n", folder=RUN)


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def view(store: str | None, run: RunDirectory, **options: Any) -> MlflowView:
    return MlflowView(store, "test", run.id, run.path, **{"config": CONFIG, **options})


def record(run: RunDirectory, *events: tuple[str, dict[str, Any]]) -> None:
    with Journal.open(run.journal_path) as journal:
        if not len(journal):
            journal.append("start", run=run.id, name="x", versions={"torch": "2"}, workers=2, hostname="h")
        for type_, fields in events:
            journal.append(type_, **fields)
            time.sleep(0.002)  # MLflow counts milliseconds, and orders points of one step by them


def gradient_steps(start: int, stop: int) -> list[tuple[str, dict[str, Any]]]:
    events: list[tuple[str, dict[str, Any]]] = []
    for step in range(start, stop):
        gradient = {"norm": 1.0 + step, "hash": "h"}
        figures = {"L": 1.0 / (1 + step), "objective": 2.0, "metrics": {"accuracy": 0.5}, "gradient": gradient}
        events.append(("ask", {"step": step, "proposals": [{"id": step, "seed": step, "choices": {}}]}))
        events.append(("evaluation", {"id": step, "step": step, "status": "ok", **figures}))
    return events


def trial(id: int, L: float | None, status: str = "ok", **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    asked = ("ask", {"step": id, "proposals": [{"id": id, "seed": id, "choices": {"rate": 0.5, "op": "rotate"}}]})
    if L is None:
        return [asked]
    reported = ("report", {"id": id, "step": 1, "metrics": {"L": L + 1}, "checkpoint": None})
    figures = {"L": L, "objective": L, "metrics": {}, "gradient": None, **fields}
    return [asked, reported, ("evaluation", {"id": id, "step": id, "status": status, **figures})]


END = ("end", {"status": "finished", "reason": "steps"})


class Stored:
    """What is in a store, read through MLflow's own client."""

    def __init__(self, uri: str) -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        experiment = self.client.get_experiment_by_name("test")
        assert experiment is not None
        self.runs = list(self.client.search_runs([experiment.experiment_id], max_results=1000))
        parents = [run for run in self.runs if "metasearch.run" in run.data.tags]
        assert len(parents) == 1
        self.parent = parents[0]
        self.children = {
            int(run.data.tags["metasearch.proposal"]): run
            for run in self.runs
            if run.data.tags.get("mlflow.parentRunId") == self.parent.info.run_id
        }
        assert len(self.children) + 1 == len(self.runs), "a proposal has two runs"

    def history(self, run: Any, name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, name)]

    def everything(self) -> Any:
        """All that is stored, without MLflow's own ids."""
        return [
            (
                run.info.status,
                run.info.start_time,
                run.info.end_time,
                dict(run.data.params),
                {key: value for key, value in run.data.tags.items() if key != "mlflow.parentRunId"},
                [
                    sorted(
                        (name, point.step, point.timestamp, repr(point.value))
                        for point in self.client.get_metric_history(run.info.run_id, name)
                    )
                    for name in sorted(run.data.metrics)
                ],
            )
            for run in [self.parent, *(self.children[id] for id in sorted(self.children))]
        ]


def test_a_search_by_gradient_is_one_run_with_its_figures_by_step(store: str, run: RunDirectory) -> None:
    validation = {
        "step": 2,
        "L": 0.4,
        "L_ci95": 0.1,
        "metrics": {"accuracy": 0.75},
        "metrics_ci95": {"accuracy": 0.05},
        "best": True,
    }
    test = {
        "name": "metasearch",
        "L": 0.5,
        "metrics": {"accuracy": 0.7},
        "metrics_ci95": {"accuracy": 0.01},
        "episodes": 600,
    }
    record(
        run,
        *gradient_steps(0, 3),
        ("validation", validation),
        ("test", test),
        ("test", {**test, "name": "random"}),
        END,
    )
    assert view(store, run).close()
    stored = Stored(store)
    assert stored.children == {}
    assert stored.history(stored.parent, "L") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert stored.history(stored.parent, "gradient_norm") == [(0, 1.0), (1, 2.0), (2, 3.0)]
    metrics = stored.parent.data.metrics
    expected = {
        "validation/accuracy": 0.75,
        "validation/accuracy_ci95": 0.05,
        "best_validation": 0.75,
        "test/accuracy": 0.7,
    }
    assert {**metrics, **expected, "baseline/random": 0.7, "evaluations": 3.0} == metrics
    assert stored.parent.data.params == {"seed": "3", "tasks.ways": "5", "validation.select": "accuracy"}
    assert stored.parent.data.tags["evaluations"] == "3"
    assert stored.parent.info.status == "FINISHED"
    assert stored.parent.info.run_name == RUN


def test_a_search_over_choices_has_a_run_for_each_proposal(store: str, run: RunDirectory) -> None:
    failure = {"kind": "user_error", "message": "boom"}
    events = [
        *trial(0, 2.0),
        *trial(1, math.nan, "failed", failure=failure),
        *trial(2, math.inf, "diverged"),
        *trial(3, None),
    ]
    record(run, *events, ("end", {"status": "interrupted", "reason": "Ctrl-C"}))
    assert view(store, run).close()
    stored = Stored(store)
    statuses = {id: child.info.status for id, child in stored.children.items()}
    assert statuses == {0: "FINISHED", 1: "FAILED", 2: "FAILED", 3: "KILLED"}
    assert stored.parent.info.status == "KILLED"
    assert stored.children[0].data.params == {"phi.rate": "0.5", "phi.op": "rotate"}
    assert stored.history(stored.children[0], "L") == [(1, 3.0), (1, 2.0)]
    assert stored.children[0].data.metrics["L"] == 2.0
    assert stored.children[1].data.tags["metasearch.failure"] == "user_error: boom"
    assert "L" not in stored.children[2].data.metrics
    assert stored.children[2].data.tags["metasearch.infinite.L"] == "inf at step 1"
    assert stored.parent.data.tags["evaluations"] == "3"


def test_sending_everything_again_changes_nothing(store: str, run: RunDirectory) -> None:
    record(run, *gradient_steps(0, 2), *trial(2, 2.0), *trial(3, math.nan, "diverged"), END)
    assert view(store, run).close()
    first = Stored(store)
    before = first.everything()
    first.client.delete_tag(first.parent.info.run_id, "metasearch.records")
    assert view(store, run).close()
    assert Stored(store).everything() == before


def test_portions_give_the_same_rows_as_one_go(
    store: str, run: RunDirectory, empty_store: Path, tmp_path: Path
) -> None:
    tracked = view(store, run)
    for event in [*gradient_steps(0, 2), *trial(2, 2.0), *trial(3, math.nan, "failed"), END]:
        record(run, event)
        assert tracked.sync(force=True)
    (tmp_path / "other.db").write_bytes(empty_store.read_bytes())
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert view(other, run).sync(force=True)
    assert Stored(store).everything() == Stored(other).everything()


def test_more_points_than_a_batch_holds_all_arrive(store: str, run: RunDirectory) -> None:
    record(run, *gradient_steps(0, 300))
    assert view(store, run).sync(force=True)
    stored = Stored(store)
    assert len(stored.history(stored.parent, "gradient_norm")) == 300
    assert stored.parent.data.tags["evaluations"] == "300"


def test_more_params_than_a_batch_holds_and_long_values_are_stored(store: str, run: RunDirectory) -> None:
    record(run)
    config = {"many": {f"p{i}": i for i in range(250)}, "long": "x" * 7000}
    assert view(store, run, config=config).sync(force=True)
    params = Stored(store).parent.data.params
    assert len(params) == 251
    assert len(params["long"]) == 6000


def test_a_resumed_run_goes_on_in_the_same_runs(store: str, run: RunDirectory) -> None:
    record(run, *trial(0, 2.0), *trial(1, None), ("end", {"status": "interrupted", "reason": "Ctrl-C"}))
    assert view(store, run).close()
    before = Stored(store)
    assert {id: child.info.status for id, child in before.children.items()} == {0: "FINISHED", 1: "KILLED"}
    record(run, ("event", {"event": "resume", "detail": {}}))
    resumed = view(store, run, config={**CONFIG, "seed": 4, "new": 1})
    assert resumed.sync(force=True)
    running = Stored(store)
    assert running.parent.info.status == running.children[1].info.status == "RUNNING"
    assert running.children[0].info.status == "FINISHED"
    record(run, *trial(1, 1.0)[1:], END)
    assert resumed.close()
    after = Stored(store)
    assert after.parent.info.run_id == before.parent.info.run_id
    assert {id: child.info.run_id for id, child in after.children.items()} == {
        id: child.info.run_id for id, child in before.children.items()
    }
    assert after.parent.info.status == after.children[1].info.status == "FINISHED"
    assert after.parent.data.tags["evaluations"] == "2"
    assert after.parent.data.params["seed"] == "3"
    assert after.parent.data.params["new"] == "1"
    assert after.parent.data.tags["metasearch.changed.seed"] == "4"


@pytest.mark.parametrize("passage", [1, 3])
def test_a_kill_in_the_middle_of_a_flush_loses_and_doubles_nothing(
    store: str, run: RunDirectory, empty_store: Path, tmp_path: Path, passage: int
) -> None:
    record(run, *gradient_steps(0, 2), *trial(2, 2.0), *trial(3, 1.0), END)
    command = [sys.executable, "-c", SYNC, store, run.id, str(run.path)]
    environment = {**os.environ, VARIABLE: f"mlflow.flush:{passage}", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert view(store, run).close()
    (tmp_path / "other.db").write_bytes(empty_store.read_bytes())
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert view(other, run).close()
    assert Stored(store).everything() == Stored(other).everything()


def test_a_dead_server_is_reported_once_and_nothing_is_lost(
    store: str, run: RunDirectory, closed_port: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    dead = view(closed_port, run)
    record(run, *gradient_steps(0, 2))
    with caplog.at_level(logging.WARNING, "metasearch"):
        assert not dead.sync()
        assert not dead.sync(force=True)
        assert len(caplog.records) == 1
        assert "the search goes on" in caplog.text
        assert not dead.close()
    assert "is behind the journal" in caplog.records[-1].getMessage()
    assert dead.urls() == {}
    record(run, *gradient_steps(2, 4), END)
    assert view(store, run).close()
    stored = Stored(store)
    assert len(stored.history(stored.parent, "L")) == 4
    assert stored.parent.info.status == "FINISHED"


def test_one_view_catches_up_when_the_store_comes_back(
    store: str, run: RunDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracked = view(store, run)
    record(run, *gradient_steps(0, 2), *trial(2, 2.0))
    assert tracked.sync(force=True)
    database = tmp_path / "mlflow.db"
    whole = database.read_bytes()
    database.write_bytes(b"no database at all " * 500)
    record(run, *gradient_steps(3, 5))
    with caplog.at_level(logging.INFO, "metasearch"):
        assert not tracked.sync(force=True)
        record(run, *trial(5, 1.0))
        assert not tracked.sync(force=True)
        database.write_bytes(whole)
        assert tracked.sync(force=True)
    assert [entry.levelname for entry in caplog.records if entry.name.startswith("metasearch")] == ["WARNING", "INFO"]
    stored = Stored(store)
    assert len(stored.history(stored.parent, "L")) == 6
    assert set(stored.children) == {2, 5}
    assert stored.parent.data.tags["evaluations"] == "6"


def test_a_failure_is_followed_by_a_growing_pause(
    run: RunDirectory, closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    record(run)
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    tracked = view(closed_port, run)
    attempts = []
    monkeypatch.setattr(tracked, "_attempt", lambda deadline: attempts.append(clock[0]) or tracked._guarded(refuse))
    for _ in range(200):
        tracked.sync()
        clock[0] += 1.0
    assert [time - 1000 for time in attempts] == [0, 2, 6, 14, 30, 62, 122, 182]


def refuse() -> None:
    raise ConnectionError("refused")


def test_a_damaged_journal_is_no_trouble_of_mlflow(store: str, run: RunDirectory) -> None:
    record(run, *gradient_steps(0, 2))
    run.journal_path.write_text("rubbish\n" + run.journal_path.read_text())
    with pytest.raises(JournalError, match="line 1"):
        view(store, run).sync(force=True)


def test_a_sync_within_the_interval_does_nothing(store: str, run: RunDirectory) -> None:
    tracked = view(store, run, interval_s=1000.0)
    record(run, *gradient_steps(0, 1))
    assert tracked.sync()
    record(run, *gradient_steps(1, 2))
    assert tracked.sync()
    assert Stored(store).parent.data.tags["evaluations"] == "1"
    assert tracked.sync(force=True)
    assert Stored(store).parent.data.tags["evaluations"] == "2"


def test_before_the_first_record_there_is_nothing_to_show(store: str, run: RunDirectory) -> None:
    tracked = view(store, run)
    assert tracked.sync(force=True)
    assert tracked.urls() == {}


def test_only_the_best_have_runs_where_that_is_asked_for(store: str, run: RunDirectory) -> None:
    tracked = view(store, run, children="best:2")
    for id, L in enumerate([4.0, math.nan, 3.0, 5.0, 1.0]):
        record(run, *trial(id, L, "diverged" if math.isnan(L) else "ok"))
        assert tracked.sync(force=True)
    stored = Stored(store)
    assert sorted(stored.children) == [2, 4]
    assert stored.parent.data.tags["evaluations"] == "5"
    assert stored.history(stored.parent, "best_L") == [(0, 4.0), (2, 3.0), (4, 1.0)]
    assert view(store, run, children={"best": 2}).close()
    assert Stored(store).everything() == stored.everything()


def test_no_runs_for_proposals_where_none_are_asked_for(store: str, run: RunDirectory) -> None:
    record(run, *trial(0, 1.0))
    assert view(store, run, children="none").sync(force=True)
    assert Stored(store).children == {}


def test_a_run_deleted_by_hand_is_made_again(store: str, run: RunDirectory) -> None:
    record(run, *trial(0, 1.0))
    assert view(store, run).sync(force=True)
    stored = Stored(store)
    for deleted in stored.runs:
        stored.client.delete_run(deleted.info.run_id)
    assert view(store, run).sync(force=True)
    assert Stored(store).everything()[1] == stored.everything()[1]


def test_files_of_the_run_are_uploaded_at_the_end(store: str, run: RunDirectory) -> None:
    record(run, *gradient_steps(0, 1), END)
    run.phi_path.mkdir()
    (run.phi_path / "manifest.json").write_text("{}")
    run.report_path.write_text("<html>")
    run.write_results({"format": 1})
    with view(store, run):
        pass
    stored = Stored(store)
    listed = {entry.path for entry in stored.client.list_artifacts(stored.parent.info.run_id)}
    assert listed == {"config.yaml", "phi", "report.html", "results.json"}
    assert [entry.path for entry in stored.client.list_artifacts(stored.parent.info.run_id, "phi")] == [
        "phi/manifest.json"
    ]


def test_a_nested_search_is_filed_under_its_trial(store: str, run: RunDirectory) -> None:
    record(run)
    tracked = view(store, run, parent_run_id="0123456789abcdef")
    assert tracked.sync(force=True)
    assert Stored(store).parent.data.tags["mlflow.parentRunId"] == "0123456789abcdef"


def test_the_pages_name_the_run_and_its_best_trials(store: str, run: RunDirectory) -> None:
    record(run, *trial(0, 2.0), *trial(1, 1.0))
    tracked = view(store, run)
    tracked.sync(force=True)
    stored = Stored(store)
    pages = tracked.urls()
    assert tracked.run_id == stored.parent.info.run_id
    assert pages["run"].endswith(stored.parent.info.run_id)
    best_first = [pages["compare"].index(stored.children[id].info.run_id) for id in (1, 0)]
    assert best_first == sorted(best_first)
    tags = stored.client.get_experiment(stored.parent.info.experiment_id).tags
    table = json.loads(tags[f"mlflow.sharedViewState.{tracked.run_id}"])
    assert pages["trials"].endswith(f"viewStateShareKey={tracked.run_id}")
    assert table["selectedColumns"][0] == "metrics.`L`"
    assert table["searchFilter"] == f"tags.`mlflow.parentRunId` = '{tracked.run_id}'"
    record(run, *trial(2, 0.5)[:1])
    tracked.sync(force=True)
    record(run, *trial(2, 0.5)[1:])
    later = view(store, run)  # sends figures only, and forgets no column
    later.sync(force=True)
    assert later.urls()["trials"] == pages["trials"]
    tags = stored.client.get_experiment(stored.parent.info.experiment_id).tags
    assert json.loads(tags[f"mlflow.sharedViewState.{tracked.run_id}"]) == table


@pytest.mark.parametrize(
    ("children", "limit"),
    [("auto", 10_000), ("all", sys.maxsize), ("none", 0), ("best:5", 5), ("best: 5", 5), ({"best": 3}, 3)],
)
def test_how_many_proposals_have_runs(children: Any, limit: int) -> None:
    assert child_limit(children) == limit


@pytest.mark.parametrize("children", ["some", "best:0", "best", {"best": 0}, {"worst": 3}])
def test_other_words_for_children_are_refused(children: Any) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.children: expected"):
        child_limit(children)
