"""Memory, a user's mistake, divergence and an interrupt are told apart, recorded as such, and treated apart."""

import math
import threading
from pathlib import Path
from typing import Any

import pytest
from records import content, of_type, sequence

from metasearch.controller import Controller
from metasearch.core.errors import ExecutionError
from metasearch.rehearsal import dry_run
from metasearch.resolution import resolve
from metasearch.running import resume, run

PARTS = Path(__file__).parent / "parts"


def test_out_of_memory_halves_the_shard_as_an_event_and_goes_on(tiny: dict[str, Any], tmp_path: Path) -> None:
    small = {**tiny, "evaluation": {**tiny["evaluation"], "tasks": 12, "shard": 2}, "test": None}
    expected = sequence(run(resolve(small), root=tmp_path / "small").directory.path)
    greedy = {**small, "tasks": {**tiny["tasks"], "type": "failing:Greedy"}}
    greedy["evaluation"] = {**greedy["evaluation"], "shard": 4}
    path = run(resolve(greedy, PARTS), root=tmp_path / "greedy").directory.path
    assert [one["detail"] for one in of_type(path, "event")] == [{"from": 4, "to": 2}]
    assert sequence(path) == expected


def test_a_resumed_run_keeps_the_smaller_shard(tiny: dict[str, Any], tmp_path: Path, drivers: Any) -> None:
    greedy = {**tiny, "tasks": {**tiny["tasks"], "type": "failing:Greedy"}, "test": None}
    greedy["evaluation"] = {**tiny["evaluation"], "shard": 4}
    whole = run(resolve(greedy, PARTS), root=tmp_path / "whole").directory.path
    path = drivers.until_dead(greedy, "journal.after:12")
    resume(path)
    assert sequence(path) == sequence(whole)


def test_a_mistake_in_user_code_ends_a_gradient_search_with_its_traceback(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["tasks"]["type"] = "failing:Broken"
    with pytest.raises(ExecutionError, match="no such drawing"):
        run(resolve(tiny, PARTS), root=tmp_path)
    (path,) = tmp_path.iterdir()
    assert of_type(path, "end")[-1]["status"] == "failed"
    assert of_type(path, "evaluation") == []


def test_a_diverged_step_is_recorded_as_nan_names_its_tasks_and_is_skipped(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    tiny["tasks"]["type"] = "failing:Poisoned"
    tiny["evaluation"] = {"type": "episodes", "estimator": "backprop", "tasks": 3, "shard": 1}
    path = run(resolve({**tiny, "budget": {"steps": 12}}, PARTS), root=tmp_path).directory.path
    evaluations = of_type(path, "evaluation")
    bad = [one for one in evaluations if one["status"] == "diverged"]
    assert bad
    assert len(bad) < len(evaluations)
    assert all(math.isnan(one["L"]) and one["diverged"] for one in bad)
    assert all(math.isfinite(one["L"]) for one in of_type(path, "validation"))


def test_a_search_that_keeps_diverging_stops_and_says_so(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["learner"]["slots"]["learning_rates"]["value"] = 1e30
    tiny["searcher"]["patience"] = 3
    outcome = run(resolve(tiny), root=tmp_path)
    assert outcome.status == "diverged"
    assert len(of_type(outcome.directory.path, "evaluation")) == 3


def choices(tiny: dict[str, Any], function: str) -> dict[str, Any]:
    config = {"kind": {"choice": ["raise", "nan", "fine"]}, "x": {"float": [0, 1]}}
    return {
        "name": "choices",
        "searcher": {"type": "random"},
        "evaluation": {"type": "objective", "function": function, "config": config},
        "budget": {"evaluations": 12},
        "execution": tiny["execution"],
        "tracking": tiny["tracking"],
    }


def test_failed_and_diverged_proposals_are_recorded_as_such_and_the_search_goes_on(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    outcome = run(resolve(choices(tiny, "failing:sometimes"), PARTS), root=tmp_path)
    status = {one["id"]: one["status"] for one in of_type(outcome.directory.path, "evaluation")}
    kinds = {
        one["id"]: one["choices"]["evaluation.config.kind"]
        for ask in of_type(outcome.directory.path, "ask")
        for one in ask["proposals"]
    }
    assert {(kinds[id_], status[id_]) for id_ in kinds} == {("raise", "failed"), ("nan", "diverged"), ("fine", "ok")}
    assert outcome.results is not None
    assert outcome.results["selected"]["choices"]["evaluation.config.kind"] == "fine"


def test_a_function_that_always_fails_ends_the_search_early(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="5 proposals in a row failed"):
        run(resolve(choices(tiny, "failing:always"), PARTS), root=tmp_path)


def test_an_interrupted_run_finishes_its_step_and_resumes_to_the_same_end(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = content(run(resolve(tiny), root=tmp_path / "whole").directory.path)
    tell = Controller._tell

    def stop_after_three(self: Controller, *arguments: Any, **named: Any) -> None:
        tell(self, *arguments, **named)
        if self.step == 3:
            self.stop()

    monkeypatch.setattr(Controller, "_tell", stop_after_three)
    outcome = run(resolve(tiny), root=tmp_path / "stopped")
    monkeypatch.undo()
    path = outcome.directory.path
    assert outcome.status == "interrupted"
    assert len(of_type(path, "evaluation")) == 3
    resume(path)
    assert {**content(path), "ends": []} == {**whole, "ends": []}
    assert [one["status"] for one in of_type(path, "end")] == ["interrupted", "finished"]


def test_a_dry_run_times_a_step_and_records_nothing(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = dry_run(resolve(tiny))
    assert result["estimate_seconds"] >= 8 * result["step_seconds"] > 0
    assert math.isfinite(result["L"])
    assert list(tmp_path.iterdir()) == []


def test_a_run_driven_from_another_thread_leaves_signals_alone(tiny: dict[str, Any], tmp_path: Path) -> None:
    outcomes: list[Any] = []
    thread = threading.Thread(target=lambda: outcomes.append(run(resolve({**tiny, "test": None}), root=tmp_path)))
    thread.start()
    thread.join(120)
    assert [one.status for one in outcomes] == ["finished"]
