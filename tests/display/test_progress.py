import math
from typing import Any

import pytest

from metasearch.display.progress import Progress


def evaluation(
    step: int, elapsed: float, value: float = 1.0, *, id: int | None = None, status: str = "ok"
) -> dict[str, Any]:
    own = {"type": "evaluation", "id": step if id is None else id, "step": step, "status": status}
    return own | {"elapsed": elapsed, "L": value, "tasks": 32, "metrics": {}}


def test_rates_leave_out_the_first_evaluation_which_starts_workers_and_compiles() -> None:
    progress = Progress({"steps": 101})
    progress.add(evaluation(0, 60.0))
    assert progress.tasks_per_second is None
    assert progress.left() is None
    for step in range(1, 11):
        progress.add(evaluation(step, 60.0 + step))
    assert progress.tasks_per_second == pytest.approx(32.0)
    assert progress.left() == pytest.approx(90.0)
    assert progress.share == pytest.approx(11 / 101)


def test_the_budget_that_ends_first_decides() -> None:
    progress = Progress({"steps": 1000, "evaluations": None, "seconds": 30.0})
    for step in range(11):
        progress.add(evaluation(step, 10.0 + step))
    assert progress.left() == pytest.approx(10.0)
    assert progress.share == pytest.approx(20 / 30)


def test_evaluations_are_counted_where_several_belong_to_a_step() -> None:
    progress = Progress({"evaluations": 8})
    for id in range(4):
        progress.add(evaluation(id // 2, float(id), id=id))
    assert (progress.evaluations, progress.step) == (4, 2)
    assert progress.left() == pytest.approx(4.0)


def test_the_test_does_not_slow_the_rates_of_the_search() -> None:
    progress = Progress({"steps": 2})
    progress.add(evaluation(0, 1.0))
    progress.add(evaluation(1, 2.0))
    progress.add({"type": "test", "elapsed": 500.0})
    assert progress.tasks_per_second == pytest.approx(32.0)
    assert progress.left() == 0.0
    assert progress.elapsed == 500.0


def test_the_mean_and_the_lowest_pass_over_what_is_not_finite() -> None:
    progress = Progress({"steps": 9})
    for step, value in enumerate([2.0, math.nan, 1.0]):
        progress.add(evaluation(step, step, value, status="diverged" if math.isnan(value) else "ok"))
    assert progress.mean == (1.5, 2)
    assert progress.lowest is not None
    assert progress.lowest["id"] == 2
    assert progress.troubled == 1


def test_a_resumed_search_counts_from_where_it_was() -> None:
    progress = Progress({"steps": 40}, step=20)
    assert progress.share == 0.5
    progress.add(evaluation(20, 100.0))
    progress.add(evaluation(21, 101.0))
    assert progress.left() == pytest.approx(18.0)


def test_the_best_validation_is_kept_apart_from_the_newest() -> None:
    progress = Progress({"steps": 9})
    first = {"type": "validation", "step": 1, "elapsed": 1.0, "L": 1.0, "best": True}
    second = {"type": "validation", "step": 2, "elapsed": 2.0, "L": 2.0, "best": False}
    progress.add(first)
    progress.add(second)
    assert progress.best is first
    assert progress.validation is second
