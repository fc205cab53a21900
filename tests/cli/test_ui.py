import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metasearch import cli
from metasearch.cli import ui
from metasearch.tracking import RunDirectory

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as MLflow does, for one experiment with one run."""

    run = ""

    def do_GET(self) -> None:
        known = "experiment_name=two%20words" in self.path
        self._answer(200 if known else 404, {"experiment": {"experiment_id": "7"}} if known else {})

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = query["experiment_ids"] == ["7"] and f"'{self.run}'" in query["filter"]
        self._answer(200, {"runs": [{"info": {"run_id": "abc"}}]} if found else {})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{one.server_port}"
        one.shutdown()
        thread.join()


def test_a_server_is_not_started_again_and_the_newest_run_is_shown(
    server: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    run = RunDirectory.create("runs", "demo", f"tracking: {{mlflow: '{server}', experiment: two words}}\n")
    monkeypatch.setattr(Handler, "run", run.id)
    assert cli.main(["ui"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"this run   {server}/#/experiments/7/runs/abc"
    assert second.startswith(f"all runs   {server}/#/experiments/7/runs?orderByKey=")


def test_a_run_that_the_store_does_not_have_is_said(server: str, capsys: Captured) -> None:
    run = RunDirectory.create("runs", "demo", "tracking: {experiment: other}\n")
    assert cli.main(["ui", run.id, "--uri", server]) == 0
    assert capsys.readouterr().out == f"{server}/  (the run {run.id} is not in this store)\n"


def test_a_taken_port_is_refused_with_another(capsys: Captured) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["ui", "--port", str(port)]) == 2
    assert f"{port} is taken; choose another: metasearch ui --port {port + 1}" in capsys.readouterr().err


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path, capsys: Captured) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert cli.main(["ui", "--port", str(port)]) == 2
    assert f"no MLflow database at {tmp_path / 'mlflow.db'}" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()


def test_the_server_listens_on_this_machine_only_with_one_worker() -> None:
    options = ui._options("sqlite:///mlflow.db", 5001)
    pairs = dict(zip(options[::2], options[1::2], strict=True))
    assert pairs["--host"] == "127.0.0.1"
    assert pairs["--workers"] == "1"
    assert pairs["--port"] == "5001"
