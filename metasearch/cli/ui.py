"""``metasearch ui``: MLflow's pages, served on this machine only."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from argparse import Namespace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from metasearch.core.errors import ConfigError, ExecutionError
from metasearch.tracking.mlflow_store import default_uri, urls, view_of_trials
from metasearch.tracking.rundir import RunDirectory, list_folders

__all__ = ["ui"]

_HOST = "127.0.0.1"
_START_S = 180.0


def ui(given: Namespace) -> int:
    """Serves the store until Ctrl-C; where the store is a server already, only says where to look."""
    run = _run(given)
    uri = given.uri or _uri_of(run) or default_uri()
    if uri.startswith(("http://", "https://")):
        print(_page(uri.rstrip("/"), run))
        return 0
    _require_port(given.port)
    _require_store(uri)
    base = f"http://{_HOST}:{given.port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *_options(uri, given.port)],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches this process only, which then ends the server in order
    )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends the server, too
    try:
        print(f"starting MLflow for {uri} ...", flush=True)
        _await(server, base)
        print(f"{_page(base, run)}\nCtrl-C ends it", flush=True)
        server.communicate()  # also takes the server's log away
    except KeyboardInterrupt:
        print("ended")
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
    raise ExecutionError(
        f"MLflow ended by itself with status {server.returncode}; try: mlflow server --backend-store-uri {uri}"
    )


def _options(uri: str, port: int) -> list[str]:
    return ["--backend-store-uri", uri, "--host", _HOST, "--port", str(port), "--workers", "1"]


def _run(given: Namespace) -> RunDirectory | None:
    if given.run is not None:
        return RunDirectory.open(given.run, given.runs)
    folders = list_folders(given.runs)
    return RunDirectory(folders[-1]) if folders else None


def _tracking(run: RunDirectory) -> dict[str, Any]:
    tree = yaml.safe_load(run.config_path.read_text("utf-8")) or {}
    return tree.get("tracking") or {}


def _uri_of(run: RunDirectory | None) -> str | None:
    uri = _tracking(run).get("mlflow") if run else None
    return uri if isinstance(uri, str) else None


def _require_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            raise ConfigError("--port", f"{port} is taken; choose another: metasearch ui --port {port + 1}") from None


def _require_store(uri: str) -> None:
    """A database that is not there would be made empty, and show nothing."""
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not file.exists():
        raise ConfigError(
            "--uri",
            f"there is no MLflow database at {file}; go to where the search was started, or name it with --uri",
        )


def _await(server: subprocess.Popen[bytes], base: str) -> None:
    """Returns when the server answers."""
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if server.poll() is not None:
            said = (server.stdout.read() if server.stdout else b"").decode(errors="replace").strip().splitlines()
            raise ExecutionError(f"MLflow did not start: {said[-1] if said else f'status {server.returncode}'}")
        try:
            with urllib.request.urlopen(f"{base}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise ExecutionError(f"MLflow did not answer at {base} within {_START_S:.0f} s")


def _page(base: str, run: RunDirectory | None) -> str:
    """The page of a run, else of its experiment, else the first one."""
    if run is None:
        return f"{base}/"
    name = _tracking(run).get("experiment") or run.name
    try:
        address = f"{base}/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(str(name))}"
        with urllib.request.urlopen(address, timeout=10) as reply:
            found_experiment = json.load(reply)["experiment"]
        experiment = found_experiment["experiment_id"]
        query = {"experiment_ids": [experiment], "filter": f"tags.`metasearch.run` = '{run.id}'", "max_results": 1}
        request = urllib.request.Request(
            f"{base}/api/2.0/mlflow/runs/search", json.dumps(query).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            found = json.load(reply).get("runs", [])
    except (OSError, KeyError, ValueError):
        return f"{base}/  (the run {run.id} is not in this store)"
    if not found:
        return f"all runs   {base}/#/experiments/{experiment}"
    mlflow_id = found[0]["info"]["run_id"]
    tags = {one["key"] for one in found_experiment.get("tags", [])}
    viewed = view_of_trials(mlflow_id, [])[0] in tags
    pages = urls(base, experiment, mlflow_id, viewed=viewed)
    return f"this run   {pages['run']}\n{'its trials' if viewed else 'all runs  '} {pages['trials']}"
