"""Several objectives, against definitions written out."""

import itertools
import math

import numpy as np
import pytest

from metasearch.core.errors import ConfigError
from metasearch.core.objectives import Limit, Objectives, figures, front, hypervolume, order
from metasearch.core.values import Estimate, Evaluation, Proposal


def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_front_is_what_nothing_dominates(dimensions: int) -> None:
    points = [tuple(map(float, p)) for p in np.random.default_rng(dimensions).integers(0, 6, (40, dimensions))]
    expected = [i for i, a in enumerate(points) if not any(dominates(b, a) for b in points)]
    assert front(points) == expected


def test_the_order_goes_level_by_level_and_the_less_crowded_first() -> None:
    points = [(0.0, 4.0), (1.0, 3.0), (1.2, 2.9), (4.0, 0.0), (5.0, 5.0), (2.0, 4.0)]
    ordered = order(points)
    assert ordered[:2] == [0, 3]  # the ends of the first level
    assert set(ordered[2:4]) == {1, 2}
    assert ordered[4:] == [5, 4]
    for worse, better in itertools.combinations(reversed(ordered), 2):
        assert not dominates(points[worse], points[better])


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_hypervolume_is_the_number_of_cells_that_are_dominated(dimensions: int) -> None:
    points = np.random.default_rng(dimensions).integers(0, 8, (12, dimensions))
    cells = np.array(list(itertools.product(range(6), repeat=dimensions)))
    dominated = (points[:, None] <= cells).all(-1).any(0).sum()
    assert hypervolume(points.tolist(), [6.0] * dimensions) == pytest.approx(dominated)
    assert hypervolume([], [6.0] * dimensions) == 0.0


def test_nothing_has_an_empty_front_and_order() -> None:
    assert front([]) == order([]) == []


def test_figures_to_be_raised_change_their_sign_and_limits_are_measured() -> None:
    objectives = Objectives({"L": "min", "accuracy": "max"}, {"size": Limit(max=10.0), "accuracy": Limit(min=0.5)})
    values = {"L": 2.0, "accuracy": 0.25, "size": 12.0}
    assert objectives.vector(values) == [2.0, -0.25]
    assert objectives.excesses(values) == {"size": 2.0, "accuracy": 0.25}
    assert not objectives.feasible(values)
    assert objectives.feasible({**values, "size": 10.0, "accuracy": 0.5})
    with pytest.raises(ConfigError, match=r"objectives\.accuracy: was not measured"):
        objectives.vector({"L": 1.0})


def test_a_limit_has_a_side() -> None:
    with pytest.raises(ValueError, match="min, max or both"):
        Limit()
    assert Limit(min=1.0, max=2.0).excess(1.5) == -0.5


def test_an_evaluation_is_judged_by_its_metrics_L_and_time() -> None:
    evaluation = Evaluation(Proposal(0, 0), "ok", Estimate(0.5, 0.5, {"size": 3.0}), 1.5)
    assert figures(evaluation) == {"size": 3.0, "L": 0.5, "seconds": 1.5}
    assert math.isnan(figures(Evaluation(Proposal(0, 0), "failed", Estimate(math.nan, math.nan)))["L"])
