"""The contract suite, for every registered searcher and for the variants that behave differently."""

from __future__ import annotations

import optuna
import pytest

import metasearch.searchers  # noqa: F401 - registers the built-in searchers
from metasearch.core.registry import build, registry
from metasearch.core.space import Choice, Int, Space
from metasearch.searchers.joint import Joint
from metasearch.testing.searchers import SearcherContract, example_phi, example_space


class TestRegistered(SearcherContract):
    @pytest.fixture(params=sorted(registry("searcher")))
    def make(self, request):
        return lambda: build("searcher", request.param)


class TestOptimizers(SearcherContract):
    @pytest.fixture(params=["adamw", "sgd", "momentum", "nesterov", "rmsprop", "adagrad"])
    def make(self, request):
        settings = {"type": "gradient", "optimizer": request.param, "lr": 0.01, "schedule": "cosine", "total_steps": 40}
        settings["average"] = 0.9
        return lambda: build("searcher", settings)


class TestPolicies(SearcherContract):
    @pytest.fixture(params=["ppo", "lstm", "ppo lstm"])
    def make(self, request):
        settings = {"type": "policy", "batch": 3}
        settings |= {"algorithm": "ppo", "epochs": 2} if "ppo" in request.param else {}
        settings |= {"policy": "lstm", "hidden": 4} if "lstm" in request.param else {}
        return lambda: build("searcher", settings)


class TestSamplers(SearcherContract):
    @pytest.fixture(params=["random", "cmaes", "nsgaii", "qmc"])
    def make(self, request):
        extra = {"nsgaii": {"population_size": 4}, "qmc": {"scramble": True}}.get(request.param, {})
        return lambda: build("searcher", {"type": "optuna", "sampler": request.param, **extra})

    @pytest.fixture
    def steps(self):
        return 14


class TestGaussianProcess(SearcherContract):
    @pytest.fixture
    def make(self):
        return lambda: build("searcher", {"type": "optuna", "sampler": "gp", "n_startup_trials": 3})

    @pytest.fixture
    def steps(self):
        return 6


class TestGrid(SearcherContract):
    @pytest.fixture
    def make(self):
        return lambda: build("searcher", {"type": "optuna", "sampler": "grid"})

    @pytest.fixture
    def space(self):
        return Space({"rule": Choice(("sgd", None, 0.5)), "steps": Int(1, 20)})


class TestOwnSampler(SearcherContract):
    @pytest.fixture(params=["optuna.samplers:TPESampler", "object"])
    def make(self, request):
        sampler = optuna.samplers.TPESampler(seed=1) if request.param == "object" else request.param
        return lambda: build("searcher", {"type": "optuna", "sampler": sampler})

    def test_another_seed_gives_other_proposals(self, make, space, phi, steps, request):
        if "object" in request.node.name:
            pytest.skip("a sampler object brings its own seed")
        super().test_another_seed_gives_other_proposals(make, space, phi, steps)


class TestJoint(SearcherContract):
    @pytest.fixture
    def make(self):
        return lambda: Joint(
            {
                "controller": build("searcher", "policy"),
                "weights": build("searcher", "gradient"),
                "rates": build("searcher", {"type": "gradient", "optimizer": "momentum", "lr": 1e-2}),
            },
            {"initialization": "weights", "learning_rates": "rates"},
            {"rule": "controller"},
        )

    @pytest.fixture
    def space(self):
        return example_space()

    @pytest.fixture
    def phi(self):
        return example_phi()
