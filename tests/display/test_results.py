import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from metasearch.display import print_group, print_outcome, print_results
from metasearch.display.results import reuse_lines
from metasearch.testing.phi import LEARNER, stored_phi

TEST = {
    "L": 0.06,
    "L_ci95": 0.01,
    "accuracy": 0.981,
    "accuracy_ci95": 0.003,
    "episodes": 600,
    "parameters": 9,
    "seconds": 4.0,
}
RESULTS: dict[str, Any] = {
    "name": "demo",
    "status": "finished",
    "test": TEST,
    "baselines": {"random": {**TEST, "accuracy": 0.41}},
    "paper": {"method": "MAML", "value": 98.7, "interval": 0.4, "source": "Finn 2017", "differences": ["fewer steps"]},
    "selected": {"step": 2750, "L": 0.05, "accuracy": 0.979},
    "steps": 3000,
    "evaluations": 3000,
    "tasks": 96000,
    "seconds": 723.0,
    "protocol": {"split": "test"},
    "phi": "phi",
}


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100, color_system=None, highlight=False)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(console: Console, name: str) -> list[str]:
    line = next(line for line in text(console).splitlines() if line.strip().startswith(name))
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    phi = tmp_path / "runs" / "demo" / "phi"
    phi.mkdir(parents=True)
    (phi / "manifest.json").write_text(json.dumps({"tensors": {"initialization.w": {}}}))
    return phi.parent


def test_the_table_has_this_search_the_baselines_and_the_paper(console: Console, path: Path) -> None:
    print_results(RESULTS, path, {}, console)
    assert row(console, "this search") == ["this search", "98.10 % ± 0.30 %", "0.060 ± 0.010", "600"]
    assert row(console, "random") == ["random", "41.00 % ± 0.30 %", "0.060 ± 0.010", "600"]
    assert row(console, "paper") == ["paper: MAML", "98.70 % ± 0.40 %"]
    assert "the paper: Finn 2017" in text(console)
    assert "other than in the paper: fewer steps" in text(console)
    assert "demo finished: 3,000 steps, 3,000 evaluations, 96,000 tasks in 12 min 03 s, test included" in text(console)
    assert "phi is that of step 2,750, the best by validation (L 0.05, accuracy 97.90 %)" in text(console)


def test_addresses_and_paths_are_never_broken(console: Console, path: Path) -> None:
    url = "http://127.0.0.1:5000/#/experiments/1/" + "x" * 200
    print_results(RESULTS, path, {"run": url, "serve": "mlflow ui"}, console)
    assert url in text(console)
    assert row(console, "phi  ") == ["phi", "runs/demo/phi"]
    assert "metasearch ui" in text(console)


def test_an_address_that_fills_the_screen_is_not_shown(console: Console, path: Path) -> None:
    print_results(RESULTS, path, {"run": "http://short", "compare": "http://" + "x" * 5000}, console)
    assert "xxx" not in text(console)
    assert "then Compare" in text(console)


def test_a_server_needs_no_serving(console: Console, path: Path) -> None:
    print_results(RESULTS, path, {"run": "http://tracking/#/1"}, console)
    assert "metasearch ui" not in text(console)


def test_the_lines_of_python_suit_what_was_learned(path: Path) -> None:
    lines = reuse_lines(RESULTS, path / "phi")
    assert lines[:2] == ["import metasearch as ms", 'phi = ms.load("runs/demo/phi")']
    assert any(".classifier()" in line for line in lines)
    assert any(".initialize(model)" in line for line in lines)
    regression = {**RESULTS, "test": {"L": 1.0, "L_ci95": 0.1, "episodes": 9}}
    assert any(".regressor()" in line for line in reuse_lines(regression, path / "phi"))
    assert not any(".initialize" in line for line in reuse_lines(RESULTS, path / "nothing"))
    slots = {**LEARNER["slots"], "initialization": {"type": "random"}, "update_rule": {"type": "lstm"}}
    rule = reuse_lines(regression, stored_phi(path / "rule", learner={**LEARNER, "slots": slots}))
    assert [line.partition("  #")[0] for line in rule[2:]] == ["optimizer = phi.optimizer(model.parameters())"]


def test_regression_has_a_column_for_the_loss_only(console: Console, path: Path) -> None:
    loss = {"L": 0.5, "L_ci95": 0.1, "episodes": 100, "parameters": 3, "seconds": 1.0}
    print_results({**RESULTS, "test": loss, "baselines": {}, "paper": None}, path, {}, console)
    assert row(console, "this search") == ["this search", "0.50 ± 0.10", "100"]
    assert "accuracy" not in text(console).partition("phi is")[0]


def test_choices_that_were_found_are_listed(console: Console, path: Path) -> None:
    selected = {"evaluation": 17, "L": 0.25, "choices": {"learner.lr": 0.123456789, "learner.steps": 3}}
    print_results({**RESULTS, "test": None, "selected": selected}, path, {}, console)
    assert "the best of its evaluations is number 17, L 0.25, at" in text(console)
    assert "learner.lr = 0.123457" in text(console)
    assert "learner.steps = 3" in text(console)


def front(size: int) -> dict[str, Any]:
    points = [
        {
            "evaluation": 10 + index,
            "choices": {"evaluation.config.lr": 0.1234567, "evaluation.config.hidden.0": 8 * (size - index)},
            "values": {"L": 0.1, "accuracy": 0.9 - 0.01 * index, "parameters": 1000.0 - 100 * index},
        }
        for index in range(size)
    ]
    selected = {"evaluation": 10, "L": 0.1, "choices": points[0]["choices"]} if points else None
    objectives = {"accuracy": "max", "parameters": "min"}
    return {
        **RESULTS,
        "test": None,
        "selected": selected,
        "objectives": objectives,
        "pareto": points,
        "evaluations": 40,
    }


def test_a_pareto_set_is_shown_from_end_to_end_with_the_choices_behind_it(console: Console, path: Path) -> None:
    print_results(front(3), path, {}, console)
    assert "  3 evaluations of 40 on the Pareto front\n" in text(console)
    assert row(console, "evaluation ") == ["evaluation", "accuracy (max)", "parameters (min)", "at"]
    assert row(console, "10 ") == ["10", "90.00 %", "1000", "config.lr = 0.123457, hidden.0 = 24"]
    assert row(console, "12 ") == ["12", "88.00 %", "800", "config.lr = 0.123457, hidden.0 = 8"]


def test_of_a_long_pareto_set_eight_points_are_shown_both_ends_among_them(console: Console, path: Path) -> None:
    print_results(front(30), path, {}, console)
    assert "30 evaluations of 40 on the Pareto front; 22 between these are in results.json" in text(console)
    numbers = [line.split()[0] for line in text(console).splitlines() if "hidden.0 = " in line and "config.lr" in line]
    assert [numbers[0], numbers[-1]] == ["10", "39"]
    assert len(numbers) == 8


def test_an_empty_pareto_set_says_why_and_one_objective_has_none(console: Console, path: Path) -> None:
    print_results(front(0), path, {}, console)
    assert "no evaluation keeps all constraints" in text(console)
    print_results({**front(3), "objectives": {"L": "min"}}, path, {}, console)
    assert "on the Pareto front" not in text(console)


def test_choices_that_validation_selected_are_listed(console: Console, path: Path) -> None:
    selected = {"step": 8, "L": 0.05, "choices": {"learner.steps": 3}}
    print_results({**RESULTS, "selected": selected}, path, {}, console)
    assert "phi is that of step 8, the best by validation (L 0.05), at\n    learner.steps = 3\n" in text(console)


def outcome(path: Path, status: str, reason: str) -> Any:
    directory = SimpleNamespace(path=path, name="demo")
    return SimpleNamespace(directory=directory, status=status, reason=reason, results=None, urls={})


def test_an_interrupted_run_says_how_it_goes_on(console: Console, path: Path) -> None:
    print_outcome(outcome(path, "interrupted", "stopped by the user"), console)
    assert "demo: interrupted\n" in text(console)
    assert "    metasearch resume runs/demo\n" in text(console)


def test_a_diverged_run_says_why(console: Console, path: Path) -> None:
    print_outcome(outcome(path, "diverged", "L was nan 5 times\nmore"), console)
    assert "demo: diverged (L was nan 5 times)" in text(console)
    assert "metasearch report runs/demo" in text(console)


def test_a_group_has_a_row_a_variant_with_its_paired_difference(console: Console, path: Path) -> None:
    first = SimpleNamespace(
        variant="maml", values=(0.9, 0.92), mean=0.91, ci95=0.02, difference=None, difference_ci95=None
    )
    second = SimpleNamespace(
        variant="sgd", values=(0.93, 0.95), mean=0.94, ci95=0.02, difference=0.03, difference_ci95=0.01
    )
    group = SimpleNamespace(path=path, rows=(first, second), metric="test accuracy", status="finished")
    print_group(group, console)
    assert row(console, "maml") == ["maml", "91.00 % ± 2.00 %", "2"]
    assert row(console, "sgd") == ["sgd", "94.00 % ± 2.00 %", "2", "3.00 % ± 1.00 %"]
