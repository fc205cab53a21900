import io
import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from metasearch.display import Display
from metasearch.schema import Budget, Execution


def experiment(*, gradient: bool = True, workers: int = 2, **budget: Any) -> Any:
    file = SimpleNamespace(name="demo", budget=Budget(**budget), execution=Execution(workers=workers))
    return SimpleNamespace(file=file, takes_gradient=lambda: gradient)


def evaluation(step: int, value: float = 1.0, **fields: Any) -> dict[str, Any]:
    own = {"type": "evaluation", "id": step, "step": step, "status": "ok", "L": value, "tasks": 32, "metrics": {}}
    return own | {"elapsed": 1.0 + step, "diverged": [], "failure": None} | fields


VALIDATION = {
    "type": "validation",
    "step": 2,
    "elapsed": 3.5,
    "L": 0.5,
    "L_ci95": 0.04,
    "metrics": {"accuracy": 0.9},
    "metrics_ci95": {"accuracy": 0.01},
    "episodes": 300,
    "best": True,
}


def shown(*, live: bool, every_s: float = 10.0) -> tuple[Display, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, width=110, force_terminal=live, color_system=None, highlight=False)
    return Display(console, live=live, every_s=every_s), stream


def start(display: Display, resumed_at: int | None = None, **settings: Any) -> None:
    info = {"resumed": resumed_at is not None, "step": resumed_at or 0}
    display.on_start(SimpleNamespace(path=Path("/runs/demo-1")), experiment(**settings), info)


def test_without_a_terminal_the_start_each_validation_and_the_test_have_a_line() -> None:
    display, stream = shown(live=False)
    with display:
        start(display, steps=10)
        for step in range(3):
            display.on_record(evaluation(step))
        display.on_record(VALIDATION)
        display.on_record({**VALIDATION, "type": "test", "name": "random", "seconds": 2.0})
    assert stream.getvalue().splitlines() == [
        "searching demo in /runs/demo-1",
        "first evaluation done after 1.0 s: L 1",
        "step 2: validation accuracy 90.00 % ± 1.00 %, L 0.500 ± 0.040 (300 episodes, best so far)",
        "baseline random: accuracy 90.00 % ± 1.00 %, L 0.500 ± 0.040 (300 episodes, 2.0 s)",
    ]


def test_without_a_terminal_progress_has_at_most_a_line_in_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display, stream = shown(live=False, every_s=10.0)
    with display:
        start(display, steps=100)
        for step in range(30):
            display.on_record(evaluation(step))
            now[0] += 1.0
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("step")]
    assert (
        lines[0]
        == "step 11 of 100, L 1 (mean of the last 11 evaluations), 32 tasks/s, 2 workers, about 1 min 29 s left"
    )
    assert len(lines) == 2


def test_the_panel_shows_step_loss_validation_speed_workers_and_time_left() -> None:
    display, stream = shown(live=True)
    with display:
        start(display, steps=10)
        for step in range(3):
            display.on_record(evaluation(step, 0.75))
        display.on_record(VALIDATION)
    text = stream.getvalue()
    last = text[text.rindex("search ") :]
    for part in (
        "step 3 of 10",
        "30 %",
        "0.75 (mean of the last 3 evaluations)",
        "accuracy 90.00 % ± 1.00 %, L 0.500 ± 0.040 at step 2, the best so far",
        "tasks/s, 2 workers",
        "left",
    ):
        assert part in last


def test_the_panel_says_where_the_best_was_if_the_newest_is_not() -> None:
    display, stream = shown(live=True)
    with display:
        start(display, steps=10)
        display.on_record(VALIDATION)
        display.on_record({**VALIDATION, "step": 4, "metrics": {"accuracy": 0.85}, "best": False})
    assert "at step 4; best accuracy 90.00 % at step 2" in stream.getvalue()


def test_a_search_over_choices_shows_its_lowest_loss() -> None:
    display, stream = shown(live=False, every_s=0.0)
    with display:
        start(display, gradient=False, evaluations=5)
        for step, value in enumerate([0.5, 0.25, 0.75]):
            display.on_record(evaluation(step, value))
    assert stream.getvalue().splitlines()[-1].startswith("evaluation 3 of 5, L 0.75, lowest 0.25 (evaluation 1)")


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"status": "diverged", "L": float("nan"), "diverged": [3, 5]}, "note: evaluation 0 diverged in task 3, 5"),
        (
            {"status": "failed", "failure": {"kind": "user_error", "message": "ValueError: no\nmore"}},
            "note: evaluation 0 failed (user_error): ValueError: no",
        ),
    ],
)
@pytest.mark.parametrize("live", [True, False])
def test_an_evaluation_that_went_wrong_is_a_notice_of_one_line(live: bool, fields: dict[str, Any], line: str) -> None:
    display, stream = shown(live=live)
    with display:
        start(display, steps=10)
        display.on_record(evaluation(0, **fields))
    assert line in stream.getvalue()
    assert "more" not in stream.getvalue()


def test_many_evaluations_that_go_wrong_do_not_fill_the_screen() -> None:
    display, stream = shown(live=False)
    with display:
        start(display, steps=100)
        for step in range(20):
            display.on_record(evaluation(step, status="diverged", L=float("inf")))
    notes = [line for line in stream.getvalue().splitlines() if line.startswith("note")]
    assert len(notes) == 6
    assert notes[0] == "note: evaluation 0 diverged: L is inf"
    assert "the report lists them" in notes[5]


def test_warnings_of_ours_become_notices_and_only_while_a_search_is_shown() -> None:
    display, stream = shown(live=False)
    start(display, steps=10)
    logging.getLogger("metasearch.running").warning("two\nlines")
    display.close()
    assert "note: two lines\n" in stream.getvalue()
    assert not logging.getLogger("metasearch").handlers


def test_a_notice_is_shown_once_even_after_a_display_that_nobody_closed() -> None:
    start(shown(live=False)[0], steps=10)
    display, stream = shown(live=False)
    with display:
        start(display, steps=10)
        logging.getLogger("metasearch.running").warning("once")
    assert stream.getvalue().count("once") == 1
    assert not logging.getLogger("metasearch").handlers


def test_libraries_are_heard_from_errors_on_and_as_before_afterwards() -> None:
    logger = logging.getLogger("alembic")
    logger.setLevel(before := logging.NOTSET)
    display, _ = shown(live=False)
    start(display, steps=10)
    assert not logging.getLogger("alembic.runtime").isEnabledFor(logging.WARNING)
    display.close()
    assert logging.getLogger("alembic").level == before


def test_a_second_search_on_the_same_display_replaces_the_first() -> None:
    display, stream = shown(live=True)
    with display:
        start(display, steps=10)
        start(display, resumed_at=7, steps=10)
    assert "resuming demo from step 7 in /runs/demo-1" in stream.getvalue()
    assert display.directory == Path("/runs/demo-1")


def test_an_error_gives_the_terminal_its_cursor_back() -> None:
    display, stream = shown(live=True)

    def broken() -> None:
        with display:
            start(display, steps=10)
            assert "\x1b[?25l" in stream.getvalue()
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken()
    assert stream.getvalue().endswith("\x1b[?25h")
