from __future__ import annotations

import inspect
import json
import math
import statistics
import subprocess
import sys

import optuna
import pytest
from optuna.trial import TrialState

from metasearch.core.errors import ConfigError, ResumeError, UnsupportedError
from metasearch.core.registry import build
from metasearch.core.space import Choice, Float, Int, Space
from metasearch.core.values import Estimate, Evaluation, Phi, Proposal
from metasearch.testing.searchers import Driver, example_space

CONDITIONAL = Space(
    {
        "rule": Choice(("sgd", "adam")),
        "rule.momentum": Float(0.0, 1.0, when={"rule": ("sgd",)}),
        "rule.beta": Float(0.0, 1.0, when={"rule": ("adam",)}),
        "lr": Float(1e-4, 1.0, log=True),
    }
)


def bowl(choices):
    """Lowest, at 0, for SGD with momentum 0.8 and lr 0.01; Adam is never below 0.5."""
    inner = abs(choices["rule.momentum"] - 0.8) if choices["rule"] == "sgd" else 0.5 + abs(choices["rule.beta"] - 0.5)
    return inner + abs(math.log10(choices["lr"]) + 2.0)


def search(space, loss, evaluations, seed=0, **settings):
    searcher = build("searcher", {"type": "optuna", **settings})
    searcher.setup(Phi(), space, seed)
    values, asked = [], []
    for number in range(evaluations):
        (choices,) = searcher.ask(1)
        value = loss(choices)
        status = "ok" if math.isfinite(value) else "diverged"
        searcher.tell([Evaluation(Proposal(number, 0, choices), status, Estimate(value, value))])
        asked.append(choices)
        values.append(value)
    return searcher, asked, values


def test_tpe_beats_random_on_a_space_with_conditions():
    best = {
        sampler: statistics.median(min(search(CONDITIONAL, bowl, 100, seed, sampler=sampler)[2]) for seed in range(5))
        for sampler in ("tpe", "random")
    }
    assert best["tpe"] < 0.7 * best["random"]
    assert best["tpe"] < 0.15


def test_conditions_are_honoured_and_numbers_are_on_their_grids():
    space = Space({**CONDITIONAL.dimensions, "n": Int(3, 20, step=4), "p": Float(0.1, 0.75, step=0.1)})
    _, asked, _ = search(space, bowl, 40)
    for choices in asked:
        assert ("rule.momentum" in choices) == (choices["rule"] == "sgd")
        assert choices["n"] in {3, 7, 11, 15, 19}
        assert choices["p"] in {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}


def test_a_diverged_evaluation_is_told_as_the_worst_finite_value_and_marked():
    values = iter([math.nan, 3.0, math.inf, 1.0, 7.0, math.nan])
    searcher, _, _ = search(CONDITIONAL, lambda choices: next(values), 6)
    trials = searcher._study.trials
    assert [trial.value for trial in trials] == [3.0, 3.0, 3.0, 1.0, 7.0, 7.0]
    assert [bool(trial.user_attrs.get("diverged")) for trial in trials] == [True, False, True, False, False, True]


def test_a_failed_evaluation_is_a_failed_trial():
    driver = Driver(build("searcher", "optuna"), example_space(), Phi(), special={1: "failed"}).run(3)
    states = [trial.state for trial in driver.searcher._study.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]


def test_points_come_first_and_what_they_leave_out_is_sampled():
    points = [{"rule": "adam", "rule.beta": 0.5, "lr": 0.1}, {"lr": 0.25}]
    for sampler in ("tpe", "cmaes", "qmc"):
        _, asked, _ = search(CONDITIONAL, bowl, 3, sampler=sampler, points=points)
        assert asked[0] == points[0]
        assert asked[1]["lr"] == 0.25
        assert CONDITIONAL.contains(asked[1])


def test_a_grid_visits_every_point_once_and_then_goes_on():
    space = Space({"a": Choice(("x", None, True)), "b": Float(0.1, 0.3, step=0.1)})
    _, asked, _ = search(space, lambda choices: 1.0, 9, sampler="grid")
    assert {(c["a"], c["b"]) for c in asked} == {(a, b) for a in ("x", None, True) for b in (0.1, 0.2, 0.3)}
    _, more, _ = search(space, lambda choices: 1.0, 12, sampler="grid")
    assert more[:9] == asked
    assert all(space.contains(choices) for choices in more)


SCRIPT = """
import json, sys
import metasearch.searchers
from metasearch.core.registry import build
from metasearch.core.values import Phi
from metasearch.testing.searchers import Driver, example_space
special = {4: "diverged", 9: "failed"}
driver = Driver(build("searcher", json.loads(sys.argv[1])), example_space(), Phi(), seed=11, special=special)
print(json.dumps(driver.run(int(sys.argv[2]), 2).asked))
"""


@pytest.mark.parametrize(
    "settings", [{"sampler": "tpe"}, {"sampler": "cmaes"}, {"sampler": "nsgaii", "population_size": 6}]
)
def test_another_process_makes_the_same_proposals_after_many_tells(settings):
    block = {"type": "optuna", **settings}
    command = [sys.executable, "-c", SCRIPT, json.dumps(block), "60"]
    there = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    here = Driver(build("searcher", block), example_space(), Phi(), seed=11, special={4: "diverged", 9: "failed"})
    rebuilt = Driver(build("searcher", block), example_space(), Phi(), seed=11, special={4: "diverged", 9: "failed"})
    rebuilt.replay(here.run(45, 2)).run(15, 2)
    assert json.loads(there.stdout) == rebuilt.asked
    assert there.stderr == ""


def test_an_evaluation_of_something_else_fails_loudly():
    searcher = build("searcher", "optuna")
    searcher.setup(Phi(), CONDITIONAL, 0)
    (choices,) = searcher.ask(1)
    other = {**choices, "lr": 0.5}
    with pytest.raises(ResumeError, match="waits for"):
        searcher.tell([Evaluation(Proposal(0, 0, other), "ok", Estimate(1.0, 1.0))])


def test_a_sampler_object_is_not_used_up_by_a_search():
    sampler = optuna.samplers.RandomSampler(seed=4)
    assert search(CONDITIONAL, bowl, 5, sampler=sampler)[1] == search(CONDITIONAL, bowl, 5, sampler=sampler)[1]


@pytest.mark.parametrize(
    ("settings", "space", "error", "problem"),
    [
        ({"sampler": "tpee"}, CONDITIONAL, ConfigError, "did you mean 'tpe'"),
        ({"sampler": "gp", "constant_liar": False}, CONDITIONAL, ConfigError, "no setting of the sampler 'gp'"),
        ({"sampler": "grid"}, CONDITIONAL, UnsupportedError, "condition"),
        ({"sampler": "grid"}, Space({"x": Float(0, 1)}), UnsupportedError, "step"),
        ({"points": [{"lrr": 1}]}, CONDITIONAL, ConfigError, "did you mean 'lr'"),
        ({"points": [{"lr": 5.0}]}, CONDITIONAL, ConfigError, "outside"),
        ({"sampler": "builtins:dict"}, CONDITIONAL, ConfigError, "expected an optuna sampler"),
        ({}, Space(), ConfigError, "no.*choices|none"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(settings, space, error, problem):
    with pytest.raises(error, match=problem):
        build("searcher", {"type": "optuna", **settings}).setup(Phi(), space, 0)


SAMPLERS = {
    "tpe": "TPESampler",
    "cmaes": "CmaEsSampler",
    "gp": "GPSampler",
    "nsgaii": "NSGAIISampler",
    "qmc": "QMCSampler",
}
NOT_OURS = {"warn_independent_sampling", "warn_asynchronous_seeding", "inc_popsize"}
"""Whether it warns, and what only counts with restarts, which Optuna has given up."""


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_optunas_defaults_are_passed_explicitly_and_are_still_its_own(sampler, monkeypatch):
    """A later Optuna with other defaults changes no search; that they have changed is seen here."""
    kind, told = getattr(optuna.samplers, SAMPLERS[sampler]), {}
    own = {
        name: parameter.default
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if isinstance(parameter.default, bool | int | float | str) and name not in NOT_OURS
    }

    def recorder(**settings):
        told.update(settings)
        return kind(**settings)

    monkeypatch.setattr(optuna.samplers, SAMPLERS[sampler], recorder)
    build("searcher", {"type": "optuna", "sampler": sampler}).setup(Phi(), Space({"x": Float(0, 1)}), 0)
    assert own
    assert {name: told.get(name, "not passed") for name in own} == own
    assert isinstance(told["seed"], int)
    assert sampler != "tpe" or (told["multivariate"], told["constant_liar"]) == (True, True)


@pytest.mark.parametrize(
    ("settings", "evaluations"),
    [
        ({"sampler": "gp", "n_startup_trials": 5}, 12),
        ({"sampler": "cmaes", "popsize": 6}, 60),
        ({"sampler": "nsgaii", "population_size": 8}, 120),
    ],
)
def test_a_sampler_does_better_than_its_start(settings, evaluations):
    """The best sixth of the second half against that of the first; points at random would find equal ones."""
    space = Space({"x": Float(-1.0, 1.0), "y": Float(1e-4, 1.0, log=True), "z": Float(0.0, 5.0)})

    def loss(choices):
        return abs(choices["x"] - 0.3) + abs(math.log10(choices["y"]) / 4 + 0.5) + abs(choices["z"] / 5 - 0.6)

    _, _, values = search(space, loss, evaluations, seed=1, **settings)
    first, second = sorted(values[: evaluations // 2]), sorted(values[evaluations // 2 :])
    share = evaluations // 6
    assert statistics.mean(second[:share]) < 0.6 * statistics.mean(first[:share])
