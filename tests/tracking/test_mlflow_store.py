import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from metasearch.tracking.mlflow_store import default_uri, quiet_mlflow, short_timeouts, urls


def test_the_default_store_is_the_users_choice_or_a_local_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert default_uri() == "http://tracking:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert default_uri() == f"sqlite:///{tmp_path}/mlflow.db"


def test_telemetry_is_off_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    quiet_mlflow()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    quiet_mlflow()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"


def test_banners_are_silent_and_errors_are_not() -> None:
    quiet_mlflow()
    for name in ("alembic", "mlflow.store.db.utils"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)
        assert logging.getLogger(name).isEnabledFor(logging.ERROR)


def test_timeouts_are_short_only_inside_and_only_where_the_user_has_set_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with short_timeouts():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_pages_of_a_server_show_the_trials_best_first() -> None:
    pages = urls("http://host:5000/", "7", "abc", ["c1", "c2"])
    assert pages["run"] == "http://host:5000/#/experiments/7/runs/abc"
    assert pages["trials"] == "http://host:5000/#/experiments/7/runs?orderByKey=metrics.%60L%60&orderByAsc=true"
    query = parse_qs(urlsplit(pages["compare"].replace("/#", "")).query)
    assert json.loads(query["runs"][0]) == ["c1", "c2"]
    assert json.loads(query["experiments"][0]) == ["7"]
    assert "serve" not in pages
    assert urls("http://host:5000", "7", "abc", viewed=True)["trials"].endswith("/7/runs?viewStateShareKey=abc")


def test_pages_of_a_database_come_with_the_command_that_serves_them() -> None:
    pages = urls("sqlite:////x/mlflow.db", "1", "abc")
    assert pages["serve"] == "mlflow ui --backend-store-uri sqlite:////x/mlflow.db"
    assert pages["run"].startswith("http://127.0.0.1:5000/#/")
    assert "compare" not in pages


def test_the_package_does_not_import_mlflow_before_it_is_used() -> None:
    code = (
        "import sys, metasearch.tracking, metasearch.tracking.mlflow; assert not {'mlflow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
