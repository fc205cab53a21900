"""What a search over choices found out, in pictures: the figures behind them against independent ones."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml

from metasearch.core.files import to_json
from metasearch.reporting import plots
from metasearch.reporting.history import History
from metasearch.reporting.landscape import Scale, importance, importances
from metasearch.tracking.journal import Journal
from metasearch.tracking.rundir import RunDirectory


def tried(count: int = 200) -> list[tuple[dict[str, Any], float]]:
    draws = np.random.default_rng(0)
    found = []
    for _ in range(count):
        one = {
            "lr": float(10 ** draws.uniform(-4, 0)),
            "width": int(draws.integers(4, 64)),
            "idle": float(draws.uniform()),
        }
        one["rule"] = ("a", "b", None)[int(draws.integers(3))]
        L = 2 * abs(math.log10(one["lr"]) + 2) + one["width"] / 64 + (one["rule"] == "a")
        found.append((one, L))
    return found


def written(folder: Path, **config: Any) -> Path:
    config = {"name": "landscape", "budget": {"evaluations": 200}, **config}
    directory = RunDirectory.create(folder, "landscape", yaml.safe_dump(config))
    journal = Journal.open(directory.journal_path)
    journal.append("start", run=directory.id, name="landscape", workers=1)
    for number, (choices, L) in enumerate(tried()):
        journal.append("ask", step=number, proposals=[{"id": number, "seed": 0, "choices": choices}])
        fields = {
            "metrics": {"size": 10.0 * choices["width"]},
            "tasks": 1,
            "seconds": 0.1,
            "diverged": [],
            "failure": None,
        }
        journal.append("evaluation", id=number, step=number, status="ok", L=L, objective=L, gradient=None, **fields)
    journal.close()
    return directory.path


def test_importances_rank_as_the_function_and_optuna_do(tmp_path: Path) -> None:
    found = importances(History(written(tmp_path)))
    assert sum(found.values()) == pytest.approx(1.0)
    assert next(iter(found)) == "lr"
    assert found["lr"] > 2 * max(found["width"], found["rule"])
    assert found["rule"] > 3 * found["idle"]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    distributions: dict[str, Any] = {
        "lr": optuna.distributions.FloatDistribution(1e-4, 1, log=True),
        "width": optuna.distributions.IntDistribution(4, 64),
        "idle": optuna.distributions.FloatDistribution(0, 1),
        "rule": optuna.distributions.CategoricalDistribution(("a", "b", None)),
    }
    study.add_trials(
        [optuna.create_trial(params=choices, distributions=distributions, value=L) for choices, L in tried()]
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    theirs = optuna.importance.get_param_importances(study, evaluator=evaluator)
    assert max(theirs, key=lambda name: theirs[name]) == "lr"
    for name, share in theirs.items():
        assert found[name] == pytest.approx(share, abs=0.15)


def test_the_importance_of_an_option_is_the_formulas() -> None:
    tried = [("a", 0.0)] * 6 + [("b", 1.0)] * 18  # the best quarter is all "a"
    every, top = np.array([7, 19]) / 26, np.array([7, 1]) / 8
    assert importance(tried) == pytest.approx(float((every * (top / every - 1) ** 2).sum()))


def test_scales_place_numbers_and_options() -> None:
    log = Scale.of([0.001, 1.0, 0.1])
    assert log.log
    assert [round(log.place(value), 6) for value in (0.001, 0.1, 1.0)] == [0.0, 0.666667, 1.0]
    assert [text for _, text in log.ticks()] == ["0.001", "0.01", "0.1", "1"]
    assert Scale.of(["x", None]).place(None) == 0.25
    assert Scale.of([3, 3]).place(3) == 0.5


def test_a_search_with_several_objectives_has_all_pictures(tmp_path: Path) -> None:
    objectives = {"objectives": {"L": "min", "size": "min"}, "constraints": {"size": {"max": 500}}}
    path = written(tmp_path, **objectives, scheduler={"max": 5})
    pieces = [{"from": 0, "choices": {"lr": 0.1, "rule": "a"}}, {"from": 3, "choices": {"lr": 0.01, "rule": "b"}}]
    (path / "results.json").write_text(to_json({"selected": {"L": 0.1, "schedule": pieces}}))
    found = plots(path)
    assert {"pareto", "schedule", "importance", "parallel", "contours", "best-so-far-evaluations"} <= set(found)
    assert "best-so-far-seconds" in found
    assert all(picture.startswith(b"\x89PNG") for picture in found.values())
