"""Searches for initializations from end to end: recipes, resumption, the same numbers anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from records import content, of_type, sequence

import metasearch as ms
from metasearch import recipes
from metasearch.core.errors import UnsupportedError
from metasearch.rehearsal import replay
from metasearch.resolution import resolve
from metasearch.running import resume, run

Tree = dict[str, Any]
HEADS = {"type": "mlp", "hidden": [8], "batch_norm": True}


def plain(tiny: Tree, learner: Tree, estimator: Any = None) -> Tree:
    """The tiny search with a learner of its own, which keeps the recipe's settings."""
    evaluation = {"type": "episodes", "tasks": 12, "shard": 3}
    return {
        **tiny,
        "learner": {"model": HEADS, **learner},
        "evaluation": evaluation if estimator is None else {**evaluation, "estimator": estimator},
    }


def reptile(tiny: Tree) -> Tree:
    rates = {"learning_rates": {"type": "fixed", "value": 0.02}}
    steps = {"steps": {"train": 3, "test": 4}, "batch": {"train": 2, "test": None}}
    tree = plain(tiny, {"recipe": "reptile", **steps, "slots": rates})
    return {**tree, "searcher": {"type": "gradient", "optimizer": "sgd", "lr": 1.0, "schedule": "linear"}}


def maml_plus_plus(tiny: Tree) -> Tree:
    rates = {"learning_rates": {"type": "shared", "init": 0.01}}
    tree = plain(
        tiny,
        {"recipe": "maml_plus_plus", "objective": {"until": 5, "every": 2}, "slots": rates},
        {"type": "backprop", "first_order_until": 3, "recompute": True},
    )
    return {**tree, "budget": {"steps": 7}}


def imaml(tiny: Tree) -> Tree:
    return plain(tiny, {"recipe": "imaml", "steps": 3, "slots": {"learning_rates": {"type": "fixed", "value": 0.01}}})


def anil(tiny: Tree) -> Tree:
    return plain(tiny, {"recipe": "anil", "batch": 3})


def boil(tiny: Tree) -> Tree:
    return plain(tiny, {"recipe": "boil", "slots": {"learning_rates": {"type": "fixed", "value": 0.01}}})


METHODS: dict[str, Callable[[Tree], Tree]] = {one.__name__: one for one in (reptile, maml_plus_plus, imaml, anil, boil)}


def finish(tree: Tree, root: Path) -> Path:
    outcome = run(resolve(tree), root=root)
    assert outcome.status == "finished"
    return outcome.directory.path


@pytest.mark.parametrize("method", METHODS)
def test_a_method_lowers_the_loss_and_its_phi_is_taken_away(method: str, tiny: Tree, tmp_path: Path) -> None:
    assert method in recipes.names()
    path = finish(METHODS[method](tiny), tmp_path)
    values = [one["L"] for one in of_type(path, "validation")]  # on the same episodes
    assert values[-1] < values[0]
    phi = ms.load(path / "phi")
    x = torch.linspace(-1, 1, 5)[:, None]
    assert phi.adapt(x, torch.sin(x))(x).shape == (5, 1)
    assert phi.network()(x).shape == (5, 1)


@pytest.mark.parametrize("method", ["reptile", "maml_plus_plus"])
@pytest.mark.parametrize("fault", ["journal.after:9", "checkpoint.rename:3"])
def test_a_method_whose_steps_differ_is_killed_and_resumed_to_the_same_end(
    method: str, fault: str, tiny: Tree, tmp_path: Path, drivers: Any
) -> None:
    tree = METHODS[method](tiny)
    path = drivers.until_dead(tree, fault)
    resume(path)
    assert content(path) == content(finish(tree, tmp_path / "whole"))


def test_an_evaluation_on_the_way_of_the_annealing_is_replayed(tiny: Tree, tmp_path: Path) -> None:
    path = finish(maml_plus_plus(tiny), tmp_path)
    for evaluation in (1, 4, 6):
        assert replay(path, evaluation, say=lambda text: None)["equal"]


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_the_same_on_1_and_3_workers(method: str, tiny: Tree, tmp_path: Path) -> None:
    tree = METHODS[method](tiny)
    inline = sequence(finish(tree, tmp_path / "inline"))
    for workers in (1, 3):
        tree["execution"] = {"type": "actors", "workers": workers}
        assert sequence(finish(tree, tmp_path / str(workers))) == inline


def test_check_refuses_what_an_estimator_cannot_work_with(tiny: Tree) -> None:
    tree = reptile(tiny)
    tree["learner"]["slots"] = {"learning_rates": {"type": "shared", "init": 0.1}}
    with pytest.raises(UnsupportedError, match="reptile gives a direction for the initialization only"):
        resolve(tree)


def test_figures_of_queries_alone_have_their_own_name_in_the_results(tiny: Tree, tmp_path: Path) -> None:
    tree = plain(tiny, {"recipe": "anil", "predict": "both"})
    tree["tasks"] = {"type": "omniglot", "ways": 3, "shots": 1, "queries": 2}
    tree |= {"validation": {"every": 4, "episodes": 6, "select": "accuracy_alone"}, "budget": {"steps": 4}}
    outcome = run(resolve(tree), root=tmp_path)
    assert {"accuracy", "accuracy_ci95", "accuracy_alone", "accuracy_alone_ci95"} <= set(outcome.results["test"])
