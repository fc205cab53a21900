import math
from pathlib import Path

import pytest

from metasearch.display.figures import duration, figure, headline, place, with_width


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (86400, "1 d 0 h"),
        (math.inf, "unknown"),
    ],
)
def test_a_duration_never_shows_sixty_of_a_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_accuracy_is_shown_in_percent_and_a_loss_as_it_is() -> None:
    assert figure("accuracy", 0.98, 0.004) == "98.00 % ± 0.40 %"
    assert figure("L", 0.98, 0.004) == "0.9800 ± 0.0040"


def test_an_unknown_width_is_left_out() -> None:
    assert with_width(0.5, math.nan, percent=False) == "0.5"
    assert with_width(98.7, None, percent=True) == "98.70 %"


def test_a_figure_that_is_not_finite_is_shown_as_such() -> None:
    assert figure("L", math.nan, 0.1) == "nan ± 0.1"
    assert headline({"L": math.inf, "L_ci95": math.nan}) == "L inf"


def test_a_path_below_the_working_directory_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place(tmp_path / "runs" / "one") == "runs/one"
    assert place("/elsewhere/one") == "/elsewhere/one"
