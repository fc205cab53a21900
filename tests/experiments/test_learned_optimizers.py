"""The curves of a learned optimizer beside hand-made ones, on quadratics with a few steps."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import metasearch.program  # noqa: F401  (lists the built-in parts)
from metasearch.core.registry import build
from metasearch.testing.phi import stored_phi

SCRIPT = Path(__file__).parents[2] / "experiments" / "learned_optimizers.py"
TASKS = {"type": "quadratic", "dimensions": 3, "shots": 3, "condition": 1, "shared": True}
FEW = ["--tasks", "6", "--tuning", "5", "--shard", "3", "--steps", "4", "--seeds", "1,2"]


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("learned_optimizers_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def descent(folder: Path, rate: float) -> str:
    """A phi whose learned optimizer is gradient descent."""
    tasks = build("task", TASKS, "tasks", device="cpu", dtype=torch.float32)
    learner = {
        "type": "inner_loop",
        "model": {"type": "mlp", "hidden": []},
        "adapt": ["*.weight"],
        "steps": 4,
        "slots": {
            "initialization": {"type": "random"},
            "update_rule": {"type": "learned_momentum", "momentum": 0.0, "rate": rate},
        },
    }
    config = {
        "tasks": TASKS,
        "searcher": {"type": "gradient"},
        "evaluation": {
            "type": "episodes",
            "estimator": {"type": "imitation", "teacher": {"from": "gone"}},
            "tasks": 1,
        },
        "budget": {"steps": 1},
        "numerics": {"compile": "never"},
    }
    return str(stored_phi(folder, learner=learner, spec=tasks.spec("train"), config=config))


def summary(script: Any, folder: Path, runs: list[str], *more: str) -> dict[str, Any]:
    script.main([*runs, *FEW, "--out", str(folder / "curves"), *more])
    found: dict[str, Any] = json.loads((folder / "curves.json").read_text())
    return found


def test_gradient_descent_at_its_best_rate_is_level_with_itself_and_ahead_of_others(script, tmp_path):
    slow = descent(tmp_path / "slow", 1e-3)
    first = summary(script, tmp_path, [slow], "--baselines", "sgd", "--per-decade", "1")["optimizers"]
    best = first["sgd"]["settings"]
    assert best["tried"] == 6
    assert first["sgd"]["wins"] == 2
    assert first["sgd"]["difference"][0] < 0
    fast = descent(tmp_path / "fast", best["rate"])
    both = summary(script, tmp_path, [slow, fast], "--baselines", "sgd", "--per-decade", "1")
    last = {Path(run).name: loss[0] for run, loss in both["runs"].items()}
    assert last["fast"] == pytest.approx(both["optimizers"]["sgd"]["loss"][0], rel=1e-5)
    assert last["slow"] == pytest.approx(first["learned"]["loss"][0], rel=1e-6)
    assert both["optimizers"]["learned"]["loss"][0] == pytest.approx((last["slow"] + last["fast"]) / 2)
    assert both["steps"] == [0, 1, 2, 3, 4]
    assert all(len(one["curve"]) == len(one["curve_ci95"]) == 5 for one in both["optimizers"].values())


def test_the_table_has_every_baseline_and_the_figure_is_drawn(script, tmp_path, capsys):
    run = descent(tmp_path / "run", 0.03)
    found = summary(script, tmp_path, [run], "--every", "2", "--set", "tasks.dimensions=4")
    assert found["steps"] == [0, 2, 4]
    assert {name: one["settings"]["tried"] for name, one in found["optimizers"].items() if name != "learned"} == {
        "sgd": 11,
        "momentum": 11,
        "nesterov": 11,
        "rmsprop": 11,
        "adam": 11,
        "adamw_cosine": 33,
    }
    table = (tmp_path / "curves.md").read_text()
    assert table in capsys.readouterr().out
    for name, one in found["optimizers"].items():
        assert f"| {name}" in table
        assert f"{one['loss'][0]:.4g} ± " in table
    assert (tmp_path / "curves.png").stat().st_size > 10_000
