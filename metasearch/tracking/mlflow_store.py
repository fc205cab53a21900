"""What surrounds the MLflow client: which store, how it is kept quiet and impatient, and which pages show a search."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

__all__ = ["default_uri", "quiet_mlflow", "short_timeouts", "urls", "view_of_trials"]

_SERVER = "http://127.0.0.1:5000"
_COMPARED_RUNS = 100


def default_uri() -> str:
    """``MLFLOW_TRACKING_URI`` if it is set, else an sqlite file in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def quiet_mlflow() -> None:
    """Turns off MLflow's telemetry and banners, before it is imported; a value that the user has set stays."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("alembic", "mlflow.store.db.utils"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)


@contextmanager
def short_timeouts() -> Iterator[None]:
    """While the view talks to a server, a dead one must not hold up the search for MLflow's default of minutes.

    The user's own settings of these variables stay. Also passes over a deprecation within MLflow's own database layer.
    """
    wanted = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*noload.*", category=DeprecationWarning)
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def view_of_trials(run_id: str, columns: Sequence[str]) -> tuple[str, str]:
    """The tag of an experiment by which MLflow's table shows the trials of one search, best first, and its value.

    It is what the button "Share" of MLflow's interface stores.

    Args:
        run_id: MLflow's id of the search.
        columns: what is shown of each trial, as in ``metrics.`L```.
    """
    view = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{run_id}'",
        "orderByKey": "metrics.`L`",
        "orderByAsc": True,
        "selectedColumns": list(columns),
    }
    return f"mlflow.sharedViewState.{run_id}", json.dumps(view)


def urls(
    uri: str, experiment_id: str, run_id: str, children: Sequence[str] = (), *, viewed: bool = False
) -> dict[str, str]:
    """Pages of MLflow's interface that show a search.

    Args:
        uri: the tracking store; for a database the pages are those of the server that ``serve`` starts.
        experiment_id: MLflow's id of the experiment.
        run_id: MLflow's id of the parent run.
        children: MLflow's ids of trials, best first.
        viewed: whether the experiment has the tag of :func:`view_of_trials`.

    Returns:
        ``run`` (the search), ``trials`` (a table, best first: of this search's trials with what they chose, or of all
        runs of the experiment), ``compare`` (parallel coordinates, only with children) and ``serve`` (the command to
        start a server, only if the store is not one).
    """
    is_server = uri.startswith(("http://", "https://"))
    base = f"{uri.rstrip('/') if is_server else _SERVER}/#"
    table = f"viewStateShareKey={run_id}" if viewed else "orderByKey=metrics.%60L%60&orderByAsc=true"
    pages = {
        "run": f"{base}/experiments/{experiment_id}/runs/{run_id}",
        "trials": f"{base}/experiments/{experiment_id}/runs?{table}",
    }
    if children:
        runs, experiments = (quote(json.dumps(ids)) for ids in (list(children[:_COMPARED_RUNS]), [experiment_id]))
        pages["compare"] = f"{base}/compare-runs?runs={runs}&experiments={experiments}"
    if not is_server:
        pages["serve"] = f"mlflow ui --backend-store-uri {uri}"
    return pages
