"""Training runs on Ray Tune whose driver is killed, and which are resumed."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from descent import RATE
from mlflow import MlflowClient
from records import of_type

from metasearch.resolution import resolve
from metasearch.running import resume, run
from metasearch.tracking.journal import read

PARTS = Path(__file__).parent / "parts"

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SCHEDULERS = {
    "asha": {"type": "asha", "grace": 2, "reduction": 2},
    "pbt": {"type": "pbt", "population": 4, "max": 6, "interval": 2},
}


def tree(scheduler: str, tracking: str) -> dict[str, Any]:
    return {
        "name": "killed",
        "searcher": {"type": "optuna", "sampler": "tpe", "n_startup_trials": 2, "in_flight": 2},
        "evaluation": {"type": "objective", "function": "descent:train", "config": RATE},
        "scheduler": SCHEDULERS[scheduler],
        "budget": {"evaluations": 4},
        "execution": {"workers": 2},
        "tracking": {"mlflow": tracking, "report": False},
    }


def killed(tree: dict[str, Any], fault: str, folder: Path) -> Path:
    """The run that a driver in a process of its own left behind when it was killed."""
    folder.mkdir()
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(tree))
    # The fault points kill with SIGKILL: nothing is flushed, closed or told to Ray.
    environment = {**os.environ, "METASEARCH_FAULT": fault, "PYTHONPATH": os.pathsep.join([str(PARTS), *sys.path])}
    command = [sys.executable, "-m", "metasearch", "run", str(file)]
    with (folder / "log").open("w") as log:
        done = subprocess.run(command, check=False, cwd=folder, env=environment, stdout=log, stderr=log, timeout=240)
    assert done.returncode == -signal.SIGKILL, (folder / "log").read_text()
    (run,) = (folder / "runs").iterdir()
    return run


def mlflow_runs(tracking: str) -> dict[str, str]:
    client = MlflowClient(tracking)
    ids = [one.experiment_id for one in client.search_experiments()]
    return {run.info.run_id: run.info.status for run in client.search_runs(ids)}


@pytest.mark.parametrize(("scheduler", "fault"), [("asha", "journal.after:12"), ("pbt", "journal.after:16")])
def test_killed_training_runs_end_with_each_evaluation_once_and_the_same_mlflow_runs(
    scheduler: str, fault: str, tmp_path: Path, local_ray: None
) -> None:
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    path = killed(tree(scheduler, tracking), fault, tmp_path / "driver")
    before, runs = read(path / "journal.jsonl"), mlflow_runs(tracking)
    assert len(of_type(path, "evaluation")) < 4
    assert len(runs) > 1
    outcome = resume(path)
    records = read(path / "journal.jsonl")
    assert outcome.status == "finished"
    assert records[: len(before)] == before
    evaluations = [one["id"] for one in records if one["type"] == "evaluation"]
    reports = [(one["id"], one["step"]) for one in records if one["type"] == "report"]
    assert sorted(evaluations) == [0, 1, 2, 3]
    assert len(reports) == len(set(reports))
    after = mlflow_runs(tracking)
    assert len(after) == 5
    assert set(runs) <= set(after)
    assert set(after.values()) == {"FINISHED"}


def test_a_killed_population_ends_as_an_undisturbed_one(tmp_path: Path, local_ray: None) -> None:
    plain = tree("pbt", "")
    plain["tracking"] = {"mlflow": False, "report": False}
    whole = run(resolve(plain, PARTS), root=tmp_path / "whole")
    path = killed(plain, "journal.after:17", tmp_path / "driver")
    resumed = resume(path)
    assert resumed.results is not None
    assert whole.results is not None
    assert resumed.results["selected"] == whole.results["selected"]

    def members(folder: Path) -> list[Any]:
        return [one["detail"] for one in of_type(folder, "event") if one["event"] == "population"]

    assert members(path) == members(whole.directory.path)
    assert len(members(path)) == 2
