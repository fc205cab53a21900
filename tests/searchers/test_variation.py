from __future__ import annotations

import math
import statistics
from collections import Counter

import pytest

from metasearch.core.seeds import derive
from metasearch.core.space import Choice, Float, Int, Space
from metasearch.searchers.variation import cross, mutable, mutate
from metasearch.testing.searchers import example_space

SPACE = Space(
    {
        **example_space().dimensions,
        "lr": Float(1e-4, 1.0, log=True),
        "decay": Float(0.0, 1.0),
        "units": Int(1, 1000, log=True),
        "seed": Int(0, 10**12),
        "only": Choice(("one",)),
    }
)


def points(n):
    return [SPACE.sample(seed) for seed in range(n)]


def test_a_mutation_changes_the_named_dimension_and_what_hangs_on_it_and_nothing_else():
    for seed, point in enumerate(points(40)):
        for name in mutable(SPACE, point):
            child = mutate(SPACE, point, [name], seed)
            SPACE.validate(child)
            assert child[name] != point[name]
            differ = {other for other in {*point, *child} if point.get(other) != child.get(other)}
            hanging = {other for other, dimension in SPACE.dimensions.items() if name in (dimension.when or {})}
            hanging |= {"rule.nesterov"} if name == "rule" else set()
            assert differ <= {name, *hanging}


def test_only_dimensions_that_are_there_and_have_another_value_can_change():
    adam = next(point for point in points(40) if point["rule"] == "adam")
    assert mutable(SPACE, adam) == ["rule", "steps", "width", "lr", "decay", "units", "seed"]


def test_categories_change_to_all_others_equally_often():
    space = Space({"a": Choice(("x", "y", True, 1))})
    counts = Counter(str(mutate(space, {"a": 1}, ["a"], seed)["a"]) for seed in range(600))
    assert set(counts) == {"x", "y", "True"}
    assert min(counts.values()) > 150


def test_numbers_take_normal_steps_in_the_coordinate_of_their_prior():
    space = Space({"flat": Float(0.0, 10.0), "log": Float(1e-6, 1.0, log=True), "units": Int(1, 10**6, log=True)})
    middle = {"flat": 5.0, "log": 1e-3, "units": 1000}
    children = [mutate(space, middle, list(space), seed, scale=0.1) for seed in range(400)]
    assert statistics.stdev(child["flat"] for child in children) == pytest.approx(1.0, rel=0.15)
    assert statistics.stdev(math.log10(child["log"]) for child in children) == pytest.approx(0.6, rel=0.15)
    assert statistics.stdev(math.log10(child["units"]) for child in children) == pytest.approx(0.6, rel=0.15)
    assert statistics.mean(math.log10(child["log"]) for child in children) == pytest.approx(-3.0, abs=0.12)


@pytest.mark.parametrize(
    ("dimension", "start"), [(Int(3, 20, step=4), 3), (Int(1, 2), 2), (Float(0.1, 0.3, step=0.1), 0.3)]
)
def test_a_step_too_short_goes_to_the_next_value_and_turns_at_the_ends(dimension, start):
    found = {mutate(Space({"n": dimension}), {"n": start}, ["n"], seed, scale=1e-6)["n"] for seed in range(20)}
    values = dimension.values()
    assert found == {values[1] if start == values[0] else values[-2]}


def test_a_crossover_takes_each_value_from_a_parent_that_has_it():
    sgd = {"rule": "sgd", "rule.momentum": 0.9, "rule.nesterov": True, "steps": 1, "width": 8}
    adam = {"rule": "adam", "steps": 5, "width": 64}
    space = example_space()
    children = [cross(space, sgd, adam, derive(0, seed)) for seed in range(200)]
    for child in children:
        space.validate(child)
        assert child["rule"] == "adam" or (child["rule.momentum"], child["rule.nesterov"]) == (0.9, True)
    counts = Counter((child["rule"], child["steps"], child["width"]) for child in children)
    assert len(counts) == 8
    assert min(counts.values()) > 10


def test_a_crossover_draws_what_neither_parent_has():
    space = Space(
        {
            "a": Choice((0, 1)),
            "b": Choice((0, 1)),
            "c": Float(0, 1, when={"a": (1,), "b": (1,)}),
        }
    )
    children = [cross(space, {"a": 1, "b": 0}, {"a": 0, "b": 1}, seed) for seed in range(60)]
    both = [child["c"] for child in children if child["a"] == child["b"] == 1]
    assert len(set(both)) == len(both) > 5
