"""Optuna's samplers with several objectives and constraints."""

import math
from typing import Any

import numpy as np
import pytest

from metasearch.core.errors import ConfigError
from metasearch.core.registry import build
from metasearch.core.space import Choice, Float, Space
from metasearch.core.values import Estimate, Evaluation, Phi, Proposal

SPACE = Space({"x": Float(-1.0, 3.0), "y": Float(0.0, 4.0), "z": Choice(("a", "b"))})
OBJECTIVES = {"L": "min", "gain": "max"}


def values(choices: Any) -> dict[str, float]:
    """The best compromises have y = 0, z = a and x between 0 and 2."""
    worse = choices["y"] + (choices["z"] == "b")
    return {"L": choices["x"] ** 2 + worse, "gain": -((choices["x"] - 2) ** 2) - worse}


def search(
    evaluations: int, seed: int = 0, bad: frozenset[int] = frozenset(), **settings: Any
) -> tuple[Any, list[Any]]:
    searcher = build("searcher", {"type": "optuna", "objectives": OBJECTIVES, **settings})
    searcher.setup(Phi(), SPACE, seed)
    asked = []
    for number in range(evaluations):
        (choices,) = searcher.ask(1)
        asked.append(choices)
        found = values(choices)
        status = "diverged" if number in bad else "ok"
        value = math.nan if number in bad else found.pop("L")
        searcher.tell([Evaluation(Proposal(number, 0, choices), status, Estimate(value, value, found))])
    return searcher, asked


def area(asked: list[Any]) -> float:
    """Area that the results dominate, of the square up to (6, 6): by counting a fine grid."""
    results = [(values(one)["L"], -values(one)["gain"]) for one in asked]
    edge = np.linspace(0, 6, 121)
    covered = np.zeros((121, 121), bool)
    for a, b in results:
        covered |= (edge[:, None] >= a) & (edge[None] >= b)
    return float(covered.mean())


@pytest.mark.parametrize(
    "settings",
    [
        {"sampler": "tpe"},
        {"sampler": "nsgaii", "population_size": 10},
        {"sampler": "nsgaiii", "population_size": 10},
        {"sampler": "gp", "n_startup_trials": 5},
    ],
    ids=lambda settings: settings["sampler"],
)
def test_compromises_are_better_than_random_ones(settings: dict[str, Any]) -> None:
    evaluations, seeds = {"gp": (10, (0,)), "tpe": (60, (0,))}.get(settings["sampler"], (160, (0, 1)))
    found = np.mean([area(search(evaluations, seed, **settings)[1]) for seed in seeds])
    random = np.mean([area(search(evaluations, seed, sampler="random")[1]) for seed in seeds])
    assert found > random + 0.02


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_samplers_that_learn_nothing_take_objectives_too(sampler: str) -> None:
    searcher, asked = search(6, sampler=sampler)
    assert len(searcher._study.best_trials) >= 1
    assert len(asked) == 6


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii"])
def test_constraints_are_learned(sampler: str) -> None:
    extra = {"population_size": 10} if sampler == "nsgaii" else {}
    limits = {"L": {"max": 1.0}, "gain": {"min": -3.0}}
    searcher, asked = search(80, sampler=sampler, constraints=limits, **extra)
    allowed = [values(one)["L"] <= 1.0 and values(one)["gain"] >= -3.0 for one in asked]
    assert sum(allowed[40:]) > 1.5 * sum(allowed[:20]) + 2
    told = searcher._study.trials[-1].constraints
    assert set(told) == {"L", "gain"}


def test_a_diverged_evaluation_is_the_worst_in_each_objective() -> None:
    searcher, asked = search(4, bad=frozenset({0, 2}), sampler="random")
    told = [trial.values for trial in searcher._study.trials]
    finite = [[values(asked[i])["L"], -values(asked[i])["gain"]] for i in (1, 3)]
    assert told[0] == told[2] == finite[0]
    assert told[1] == finite[0]
    assert told[3] == finite[1]


def test_cma_es_refuses_what_it_cannot_do() -> None:
    for extra in ({"objectives": OBJECTIVES}, {"constraints": {"L": {"max": 1.0}}}):
        with pytest.raises(ConfigError, match="cmaes lowers one figure"):
            build("searcher", {"type": "optuna", "sampler": "cmaes", **extra})


def test_a_missing_figure_is_named() -> None:
    searcher = build("searcher", {"type": "optuna", "objectives": {"speed": "max"}})
    searcher.setup(Phi(), SPACE, 0)
    (choices,) = searcher.ask(1)
    with pytest.raises(ConfigError, match=r"objectives\.speed: was not measured"):
        searcher.tell([Evaluation(Proposal(0, 0, choices), "ok", Estimate(1.0, 1.0))])
