"""The journal and MLflow hold the same evaluations, whatever happened on the way."""

from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from probes import SPACE
from records import content, of_type

from metasearch.resolution import resolve
from metasearch.running import resume, run

PARTS = Path(__file__).parent / "parts"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the module: creating its tables takes longer than a search."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def runs_of(uri: str, name: str) -> list[Any]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


@pytest.mark.parametrize("fault", ["journal.after:9", "mlflow.flush:1", "mlflow.flush:2"])
def test_a_killed_and_resumed_search_is_one_mlflow_run_with_every_evaluation(
    fault: str, uri: str, tiny: dict[str, Any], drivers: Any
) -> None:
    tiny["tracking"] = {"mlflow": uri, "report": False, "experiment": fault}
    path = drivers.until_dead(tiny, fault)
    outcome = resume(path)
    (shown,) = runs_of(uri, fault)
    assert shown.info.status == "FINISHED"
    history = MlflowClient(uri).get_metric_history(shown.info.run_id, "L")
    assert [(one.step, one.value) for one in sorted(history, key=lambda one: one.step)] == [
        (one["step"], one["L"]) for one in of_type(path, "evaluation")
    ]
    assert shown.data.metrics["test/L"] == of_type(path, "test")[0]["L"]
    assert shown.info.run_id in "".join(outcome.urls.values())


def test_every_proposal_of_a_search_over_choices_has_one_child_run(
    uri: str, tiny: dict[str, Any], drivers: Any
) -> None:
    tree = {
        "name": "choices",
        "searcher": {"type": "random", "in_flight": 2},
        "evaluation": {"type": "objective", "function": "probes:train", "config": SPACE},
        "budget": {"evaluations": 6},
        "execution": tiny["execution"],
        "tracking": {"mlflow": uri, "report": False},
    }
    path = drivers.until_dead(tree, "mlflow.flush:3")
    resume(path)
    shown = runs_of(uri, "choices")
    children = [one for one in shown if "mlflow.parentRunId" in one.data.tags]
    assert len(shown) == len(children) + 1
    values = {one["id"]: one["L"] for one in of_type(path, "evaluation")}
    assert {int(one.data.tags["metasearch.proposal"]): one.data.metrics["L"] for one in children} == values
    assert {one.info.status for one in children} == {"FINISHED"}


def test_a_store_that_is_down_does_not_stop_the_search(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TIMEOUT": "1", "MAX_RETRIES": "0"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    whole = content(run(resolve(tiny), root=tmp_path / "a").directory.path)
    tiny["tracking"] = {"mlflow": "http://127.0.0.1:9", "report": False}
    assert content(run(resolve(tiny), root=tmp_path / "b").directory.path) == whole
