"""From pictures of one's own to a server: the scripts of the README run as they are written."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import metasearch as ms
from metasearch.core.values import TaskSpec
from metasearch.testing.phi import stored_phi

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SCRIPTS = dict(re.findall(r"<!-- script: (\S+) -->\n```\w+\n(.*?)```", README, re.DOTALL))
MAPS = {"type": "conv4", "filters": 8, "blocks": 2, "pool": "max", "head": "none", "norm": "running"}
SERVE = "mlflow models serve -m {uri} --env-manager local --host 127.0.0.1 --port 5001"
SIAMESE: dict[str, Any] = {
    "name": "tiny-faces",
    "tasks": {
        "type": "image_folder",
        "folder": "faces/all",
        "image_size": 8,
        "color": False,
        "fractions": [0.6, 0.2],
        "ways": 3,
        "shots": 2,
        "queries": 2,
    },
    "learner": {"recipe": "siamese", "model": {"filters": 8, "blocks": 2}},
    "searcher": {"type": "gradient", "lr": 0.01},
    "evaluation": {"tasks": 4, "shard": 4},
    "validation": {"every": 40, "episodes": 10, "select": "accuracy"},
    "test": {"episodes": 20, "baselines": ["random"]},
    "budget": {"steps": 40},
    "execution": {"type": "inline"},
    "numerics": {"compile": "never"},
    "tracking": {"mlflow": False, "report": False},
}


def drawn(folder: Path, classes: list[str], count: int, noise: float = 20.0) -> None:
    """Noisy pictures (13 by 10, in colour) of one pattern a class; the name of a class decides its pattern."""
    for name in classes:
        draw = np.random.default_rng([ord(one) for one in name])
        pattern = np.kron(draw.integers(0, 2, (4, 4)) * 160.0 + 40, np.ones((3, 4)))[:10, :13]
        (folder / name).mkdir(parents=True)
        for n in range(count):
            pixels = np.clip(pattern + draw.normal(0, noise, pattern.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).convert("RGB").save(folder / name / f"{n}.png")


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "PYTHONPATH": str(ROOT), "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}


def printed(script: str, folder: Path, port: int = 5001) -> str:
    text = SCRIPTS[script].replace("5001", str(port))
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 700
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5):
                return
        except OSError:  # nobody listens yet
            time.sleep(0.5)
    pytest.fail(f"no answer from the server:\n{log.read_text()}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pictures_of_ones_own_are_learned_logged_and_served(tmp_path: Path) -> None:
    spec = TaskSpec("classification", (1, 8, 8), 3, 3, 6)
    phi = ms.load(stored_phi(tmp_path / "phi", learner={"type": "prototypical", "model": MAPS}, spec=spec))
    drawn(tmp_path / "letters", ["alif", "beh", "teh", "dal"], 5)
    (tmp_path / "unknown").mkdir()
    drawn(tmp_path / "more", ["beh", "dal", "alif"], 6)
    for index, name in enumerate(("beh", "dal", "alif")):
        shutil.copy(tmp_path / "more" / name / "5.png", tmp_path / "unknown" / f"{index}.png")
    lines = dict(line.split(": ", 1) for line in printed("letters.py", tmp_path).splitlines() if ": " in line)
    few = phi.classifier().fit(*phi.labelled_images(tmp_path / "letters"))
    expected = few.predict(phi.images(tmp_path / "unknown")).tolist()
    assert lines["unknown"].split() == expected == ["beh", "dal", "alif"]

    port, log = free_port(), tmp_path / "server.log"
    command = SERVE.format(uri=lines["logged"]).replace("5001", str(port))
    with log.open("wb") as output:
        server = subprocess.Popen(
            command.split(), cwd=tmp_path, env=environment(), stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_for(server, port, log)
        assert printed("ask.py", tmp_path, port).split() == ["served:", *expected]
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # mlflow and the server that it started: a group of its own
        server.wait(30)


def test_a_siamese_network_learns_from_a_folder_and_verifies_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn(tmp_path / "faces" / "all", [f"{first}{last}" for first in "abcdef" for last in "xyz"], 5, noise=25)
    drawn(tmp_path / "faces" / "known", ["ada", "bob", "cem", "dee"], 4, noise=25)
    drawn(tmp_path / "faces" / "new", ["eva", "fay", "gil", "hal"], 4, noise=25)
    monkeypatch.chdir(tmp_path)
    outcome = ms.run(SIAMESE, runs=tmp_path / "runs")
    assert outcome.results is not None
    test, random = outcome.results["test"], outcome.results["baselines"]["random"]
    assert test["L"] < random["L"] - random["L_ci95"]
    assert test["auc"] > 0.8
    ms.load(outcome.phi_path).save(tmp_path / "phi")
    capsys.readouterr()
    exec(compile(SCRIPTS["verify.py"], "verify.py", "exec"), {})
    found = re.fullmatch(r"ROC area ([\d.]+), ([\d.]+)% right at ([\d.]+)\n", capsys.readouterr().out)
    assert found is not None
    area, right, threshold = map(float, found.groups())
    assert area > 0.8
    assert right > 70
    assert 0 < threshold < 1
