"""The training function of the MNIST experiments, on a handful of pictures made here."""

import gzip
import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metasearch.optim import schedule

FILE = Path(__file__).parents[2] / "experiments" / "mnist.py"
BASE: dict[str, Any] = {
    "hidden": [],
    "epochs": 3,
    "batch": 8,
    "weight_decay": 1e-4,
    "lr": 0.01,
    "hyper_lr": 1e-3,
    "schedule": None,
    "examples": None,
    "held_out": "test",
}


class Trial:
    seed = 4

    def __init__(self) -> None:
        self.reports: list[tuple[int, dict[str, float]]] = []

    def report(self, step: int, **metrics: float) -> None:
        self.reports.append((step, metrics))


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pictures of class k are bright in row k."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for prefix, count in (("train", 40), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = np.zeros((count, 28, 28), dtype=np.uint8)
        pixels[np.arange(count), labels] = 255
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    monkeypatch.setenv("METASEARCH_DATA", str(tmp_path))
    spec = importlib.util.spec_from_file_location("mnist_experiment", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VALIDATION", 10)
    return module


@pytest.mark.parametrize("optimizer", ["sgd", "sgd_hd", "nesterov", "nesterov_hd", "adam", "adam_hd"])
def test_every_optimizer_learns(mnist: Any, optimizer: str) -> None:
    trial = Trial()
    found = mnist.train({**BASE, "optimizer": optimizer}, trial)
    assert [step for step, _ in trial.reports] == [1, 2, 3]
    assert found["L"] < min(math.log(10), trial.reports[0][1]["L"])
    assert (found["lr"] != 0.01) == optimizer.endswith("_hd")


def test_pictures_are_read_as_they_were_written(mnist: Any) -> None:
    x, y = mnist.images("test")
    assert y.tolist() == [*range(10)] * 2
    bright = (1 - 0.1307) / 0.3081
    assert torch.equal((x > 0).nonzero()[:28, 1], torch.arange(28))
    assert float(x.max()) == pytest.approx(bright)


def test_a_schedule_sets_the_rate_and_the_search_does_not_see_the_test_images(mnist: Any) -> None:
    curve = {"type": "warmup_cosine", "peak": 0.05, "floor": 0.2}
    trial = Trial()
    settings = {**BASE, "optimizer": "nesterov", "schedule": curve, "lr": None, "held_out": "validation"}
    found = mnist.train(settings, trial)
    assert set(found) == {"L", "accuracy", "lr", "test_L", "test_accuracy"}
    assert found["lr"] == pytest.approx(0.01)  # 30 pictures in 4 batches: 12 steps, and their end
    assert trial.reports[0][1]["lr"] == pytest.approx(schedule(curve).rate(4 / 11))
