"""Run directories as searches leave them, written with the real journal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from metasearch.tracking.journal import Journal
from metasearch.tracking.rundir import RunDirectory

PAPER = {
    "method": "MAML",
    "value": 98.7,
    "interval": 0.4,
    "metric": "accuracy",
    "source": "Finn, Abbeel & Levine (2017), table 1",
    "differences": ["strided convolutions", "3,000 outer steps instead of 60,000"],
}
CONFIG: dict[str, Any] = {
    "name": "omniglot-5way-1shot",
    "description": "An initialization that adapts to five new characters in one gradient step.",
    "tasks": {"type": "omniglot", "ways": 5, "shots": 1},
    "learner": {"recipe": "maml", "steps": {"train": 1, "test": 3}},
    "searchers": {"searcher": {"type": "gradient", "lr": 1e-3}},
    "validation": {"every": 100, "episodes": 300, "select": "accuracy"},
    "budget": {"steps": 1200},
    "seed": 0,
}


class Clocked(Journal):
    """A journal whose clock is set by hand."""

    now = 0.0

    @property
    def elapsed(self) -> float:
        return self.now


class Sample:
    """Writes one run, record by record."""

    def __init__(self, root: Path, folder: str, config: dict[str, Any]) -> None:
        self.config = config
        self.directory = RunDirectory.create(
            root, config["name"], yaml.safe_dump(config, sort_keys=False), folder=folder
        )
        self.path = self.directory.path
        journal = Clocked.open(self.directory.journal_path)
        assert isinstance(journal, Clocked)
        self.journal = journal

    def start(self, **fields: Any) -> None:
        self.journal.append(
            "start",
            run=self.directory.path.name,
            name=self.config["name"],
            versions={"python": "3.12.3", "metasearch": "0.1.0", "torch": "2.12.0"},
            numerics={"device": "cpu", "dtype": "float32"},
            workers=2,
            hostname="node-1",
            command="metasearch run experiments/omniglot_maml.yaml",
            **fields,
        )

    def ask(self, id: int, choices: dict[str, Any] | None = None, step: int | None = None) -> None:
        proposals = [{"id": id, "seed": id, "choices": choices or {}}]
        self.journal.append("ask", step=id if step is None else step, proposals=proposals)

    def evaluation(self, id: int, L: float, status: str = "ok", norm: float | None = None, **fields: Any) -> None:
        defaults = {"metrics": {}, "tasks": 32, "seconds": 0.4, "diverged": [], "failure": None, "step": id}
        gradient = None if norm is None else {"norm": norm, "hash": "0" * 32}
        self.journal.append(
            "evaluation", id=id, status=status, L=L, objective=L, gradient=gradient, **{**defaults, **fields}
        )

    def validation(self, step: int, L: float, accuracy: float, best: bool = True) -> None:
        self.journal.append(
            "validation",
            step=step,
            L=L,
            L_ci95=0.12 * L,
            metrics={"accuracy": accuracy},
            metrics_ci95={"accuracy": 0.007},
            episodes=300,
            best=best,
        )

    def test(self, name: str, accuracy: float, ci95: float = 0.002, L: float = 0.04) -> None:
        self.journal.append(
            "test",
            name=name,
            L=L,
            L_ci95=0.003,
            metrics={"accuracy": accuracy},
            metrics_ci95={"accuracy": ci95},
            episodes=600,
            seconds=21.0,
            parameters=111_261,
        )

    def end(self, status: str = "finished", reason: str = "the budget is spent") -> None:
        self.journal.append("end", status=status, reason=reason)
        self.journal.close()


Make = Callable[..., Sample]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """``make(folder, **config)``: a run with a configuration and an empty journal."""

    def _make(folder: str = "sample-20260101-000000-abc123", **config: Any) -> Sample:
        return Sample(tmp_path, folder, {**CONFIG, **config})

    return _make


@pytest.fixture
def gradient_run(make: Make) -> Callable[..., Sample]:
    """``gradient_run(steps=...)``: a finished search by gradient, with baselines, a resume and diverged steps."""

    def _run(folder: str = "omniglot-20260101-000000-abc123", steps: int = 400, **config: Any) -> Sample:
        sample = make(folder, paper=PAPER, **config)
        sample.start()
        draws = np.random.default_rng(0)
        best = 0.0
        for step in range(steps):
            sample.journal.now = 2.0 + 0.45 * step
            if step == steps // 2:
                sample.journal.append("event", event="resume", detail={"step": step})
            t = step / steps
            bad = step % 133 == 60
            L = 1.2 * math.exp(-6 * t) + 0.08 + 0.04 * draws.normal() * (1.2 - t)
            accuracy = min(1 - 0.5 * math.exp(-6 * t) - 0.02 + 0.015 * float(draws.normal()), 1.0)
            sample.ask(step)
            sample.evaluation(
                step,
                math.nan if bad else abs(L),
                "diverged" if bad else "ok",
                norm=math.nan if bad else 2.5 * math.exp(-3 * t) * math.exp(0.3 * draws.normal()),
                metrics={"accuracy": math.nan if bad else accuracy},
                diverged=[3] if bad else [],
            )
            if (step + 1) % max(steps // 12, 1) == 0:
                t = (step + 1) / steps
                held_out = 0.983 - 0.45 * math.exp(-6 * t) + 0.004 * float(draws.normal())
                sample.validation(step + 1, 0.1 + 1.1 * math.exp(-6 * t), held_out, best=held_out > best)
                best = max(best, held_out)
        sample.test("metasearch", 0.9812, 0.0021)
        sample.test("random", 0.6123, 0.008, L=1.2)
        sample.test("pretrained", 0.8855, 0.006, L=0.4)
        sample.test("nearest_neighbour", 0.4512, 0.009, L=0.6)
        sample.end()
        return sample

    return _run


@pytest.fixture
def choice_run(make: Make) -> Callable[..., Sample]:
    """``choice_run(n)``: a search over choices with failed, diverged and open proposals."""

    def _run(n: int = 60, folder: str = "tpe-20260101-000000-def456") -> Sample:
        sample = make(folder, name="rates-by-tpe", budget={"evaluations": n}, validation=None)
        sample.start()
        draws = np.random.default_rng(1)
        for id in range(n):
            sample.journal.now = 3.0 + 11.0 * id
            rate = float(10 ** draws.uniform(-4, 0))
            choices = {
                "learner.slots.learning_rates.value": rate,
                "learner.steps.train": int(draws.integers(1, 6)),
                "learner.slots.update_rule.type": ["sgd", "adam", "momentum"][int(draws.integers(3))],
            }
            sample.ask(id, choices)
            if id % 20 == 7:
                failure = {"kind": "user_error", "message": "shapes <3> & <4> do not fit"}
                sample.evaluation(id, math.nan, "failed", failure=failure)
            elif rate > 0.6:
                sample.evaluation(id, math.inf, "diverged", diverged=[0, 1])
            else:
                L = 0.2 + (math.log10(rate) + 1.6) ** 2 * 0.3 + 0.05 * abs(float(draws.normal()))
                sample.evaluation(id, L, metrics={"accuracy": 1 / (1 + L)})
        sample.ask(n, {"learner.slots.learning_rates.value": 0.1, "learner.steps.train": 2})
        return sample

    return _run


@pytest.fixture
def episodes() -> Callable[[Path], None]:
    """``episodes(run)``: stores two image episodes of five ways and one shot in a run."""

    def _store(run: Path) -> None:
        draws = np.random.default_rng(2)
        ways, queries = 5, 15
        shapes = draws.random((2, ways, 28, 28)) < 0.15
        labels = np.tile(np.arange(ways), (2, 1))
        query_y = np.tile(np.repeat(np.arange(ways), queries // ways), (2, 1))
        query_x = np.stack([shapes[e][query_y[e]] ^ (draws.random((queries, 28, 28)) < 0.02) for e in range(2)])
        predictions = draws.integers(0, ways, (2, queries, 4))
        predictions[..., -1] = np.where(draws.random((2, queries)) < 0.9, query_y, predictions[..., 0])
        (run / "figures").mkdir(exist_ok=True)
        np.savez_compressed(
            run / "figures" / "episodes.npz",
            support_x=shapes.astype(np.float32),
            support_y=labels,
            query_x=query_x.astype(np.float32),
            query_y=query_y,
            predictions=predictions,
            confidence=draws.uniform(0.4, 1.0, (2, queries, 4)),
        )

    return _store


@pytest.fixture
def manifest() -> Callable[[Path], None]:
    """``manifest(run)``: what stands beside a saved phi."""

    def _store(run: Path) -> None:
        (run / "phi").mkdir()
        content = {
            "format": 1,
            "components": {"initialization": "tensors", "update_rule": "sgd"},
            "provenance": {"selected_step": 1100},
            "tensors": {"initialization.conv1.weight": {"shape": [64, 1, 3, 3], "dtype": "float32"}},
        }
        (run / "phi" / "manifest.json").write_text(json.dumps(content))

    return _store
