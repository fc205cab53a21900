import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from metasearch.core.statistics import paired_ci95
from metasearch.reporting.numbers import duration, figure, heading, plain, running_mean, thin


@pytest.mark.parametrize(
    ("metric", "value", "ci95", "text"),
    [
        ("accuracy", 0.98712, 0.0021, "98.71 ± 0.21"),
        ("accuracy", 0.5, math.nan, "50.00"),
        ("L", 1.23456, 0.12, "1.23 ± 0.12"),
        ("L", 123.456, 45.0, "123 ± 45"),
        ("L", 0.3, math.nan, "0.3000"),
        ("L", 1234.0, math.nan, "1234"),
        ("L", math.nan, 0.1, "nan"),
        ("L", math.inf, math.nan, "inf"),
        ("L", 1e9, 1e8, "1e+09 ± 1e+08"),
        ("L", 1.0, 0.0, "1.00 ± 0.00"),
    ],
)
def test_a_figure_has_as_many_decimals_as_its_interval_says(metric: str, value: float, ci95: float, text: str) -> None:
    assert figure(metric, value, ci95) == text


def test_a_difference_shows_its_sign() -> None:
    assert figure("accuracy", 0.02, 0.01, signed=True) == "+2.0 ± 1.0"
    assert figure("L", -0.02, 0.01, signed=True) == "−0.020 ± 0.010"


def test_units_stand_in_headings() -> None:
    assert heading("accuracy") == "accuracy (%)"
    assert heading("return") == "return"


def test_durations_and_counts() -> None:
    assert duration(3 * 3600 + 125) == "3 h 02 min"
    assert duration(0.2) == "0.2 s"
    assert duration(math.nan) == "–"
    assert plain(math.nan) == "–"


@given(st.lists(st.floats(-1e3, 1e3) | st.just(math.nan), max_size=60), st.integers(1, 9))
def test_a_running_mean_is_the_mean_of_the_finite_values_around(values: list[float], window: int) -> None:
    found = running_mean(np.array(values, dtype=np.float64), window)
    for place in range(len(values)):
        around = [v for v in values[max(place - window // 2, 0) : place + (window + 1) // 2] if math.isfinite(v)]
        if around:
            assert found[place] == pytest.approx(float(np.mean(around)), abs=1e-9)
        else:
            assert math.isnan(found[place])


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=400), st.integers(4, 60))
def test_thinning_keeps_ends_and_extremes_in_order(values: list[float], limit: int) -> None:
    array = np.array(values)
    kept = thin(array, limit)
    assert len(kept) <= limit + 2
    assert (np.diff(kept) > 0).all()
    assert kept[0] == 0
    assert kept[-1] == len(values) - 1
    if np.isfinite(array).any():
        assert np.nanmin(array[kept]) == np.nanmin(array)
        assert np.nanmax(array[kept]) == np.nanmax(array)


def test_a_paired_interval_is_that_of_students_t_test() -> None:
    a, b = np.array([1.0, 2.0, 4.0, 4.5]), np.array([0.5, 2.5, 3.0, 3.5])
    mean, ci95 = paired_ci95(a, b)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (mean - ci95, mean + ci95) == pytest.approx((expected.low, expected.high))
