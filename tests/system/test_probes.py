"""Six methods that the package does not ship, built on its contracts.

Each on 1, 2 and 3 workers, killed and resumed.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from probes import SPACE
from records import content, of_type

from metasearch.core.errors import UnsupportedError
from metasearch.resolution import resolve
from metasearch.running import resume, run

PARTS = Path(__file__).parent / "parts"
Tree = dict[str, Any]


def truncated(tiny: Tree) -> Tree:
    estimator = {"type": "probes:Truncated", "steps": 2, "horizon": 6}
    return {**tiny, "evaluation": {"type": "episodes", "estimator": estimator, "tasks": 8, "shard": 2}}


def antithetic(tiny: Tree) -> Tree:
    return {
        **tiny,
        "evaluation": {"type": "episodes", "estimator": {"type": "probes:AntitheticES"}, "tasks": 8, "shard": 2},
    }


def buffered(tiny: Tree) -> Tree:
    learner = {key: value for key, value in tiny["learner"].items() if key != "recipe"}
    return {**tiny, "learner": {**learner, "type": "probes:RunningMean"}, "test": None}


def joint(tiny: Tree) -> Tree:
    return {
        **{key: value for key, value in tiny.items() if key != "searcher"},
        "imports": ["probes"],
        "learner": {
            "type": "inner_loop",
            "model": {"type": "probes:Supernet"},
            "steps": 1,
            "slots": {
                "architecture": {"type": "one_path", "searcher": "controller"},
                "initialization": {"type": "tensors", "searcher": "weights"},
                "learning_rates": {"type": "fixed", "value": 0.01},
            },
        },
        "searchers": {
            "controller": {"type": "policy", "algorithm": "reinforce", "reward_split": "validation"},
            "weights": {"type": "gradient", "lr": 0.01},
        },
        "compose": {"type": "joint", "proposals_per_step": 3},
        "test": None,
    }


def nested(tiny: Tree) -> Tree:
    inner = {key: value for key, value in tiny.items() if key not in ("execution", "test")}
    inner |= {"budget": {"steps": 4}, "validation": {"every": 2, "episodes": 4, "shard": 2}}
    rate = {"float": [0.001, 0.05], "log": True}
    inner["learner"] = {**tiny["learner"], "slots": {"learning_rates": {"type": "fixed", "value": rate}}}
    return {
        "name": "nested",
        "searcher": {"type": "optuna", "sampler": "tpe", "n_startup_trials": 2},
        "evaluation": {"type": "search", "search": inner},
        "budget": {"evaluations": 4},
        "execution": tiny["execution"],
        "tracking": tiny["tracking"],
    }


def trials(tiny: Tree, searcher: str = "tpe") -> Tree:
    chosen = (
        {"type": "random"} if searcher == "random" else {"type": "optuna", "sampler": searcher, "n_startup_trials": 3}
    )
    return {
        "name": "trials",
        "searcher": {**chosen, "in_flight": 2},
        "evaluation": {"type": "objective", "function": "probes:train", "config": SPACE},
        "budget": {"evaluations": 8},
        "execution": tiny["execution"],
        "tracking": tiny["tracking"],
    }


CALLS: dict[str, Callable[[Tree], Tree]] = {
    "truncated": truncated,
    "antithetic": antithetic,
    "buffered": buffered,
    "joint": joint,
}
RUNS: dict[str, Callable[[Tree], Tree]] = {"trials": trials, "nested": nested}


def finish(tree: Tree, root: Path) -> Path:
    outcome = run(resolve(tree, PARTS), root=root)
    assert outcome.status == "finished"
    return outcome.directory.path


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("probe", CALLS)
def test_a_probe_of_function_calls_is_the_same_on_1_2_and_3_workers(probe: str, tiny: Tree, tmp_path: Path) -> None:
    tree = CALLS[probe](tiny)
    inline = content(finish(tree, tmp_path / "inline"))
    for workers in (1, 2, 3):
        tree["execution"] = {"type": "actors", "workers": workers}
        assert content(finish(tree, tmp_path / str(workers))) == inline


@pytest.mark.parametrize("probe", CALLS)
@pytest.mark.parametrize("fault", ["journal.after:9", "checkpoint.rename:4", "journal.write:19"])
def test_a_probe_of_function_calls_is_killed_and_resumed(
    probe: str, fault: str, tiny: Tree, tmp_path: Path, drivers: Any
) -> None:
    tree = CALLS[probe](tiny)
    path = drivers.until_dead(tree, fault)
    resume(path)
    assert content(path) == content(finish(tree, tmp_path / "whole"))


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("probe", RUNS)
def test_a_probe_of_training_runs_is_the_same_on_1_2_and_3_workers(probe: str, tiny: Tree, tmp_path: Path) -> None:
    tree = RUNS[probe](tiny)
    tree["searcher"]["in_flight"] = 3  # what is asked together must not depend on the workers
    tree["execution"] = {"type": "inline", "workers": 3}
    inline = content(finish(tree, tmp_path / "inline"))
    for workers in (1, 2, 3):
        tree["execution"] = {"type": "actors", "workers": workers}
        assert content(finish(tree, tmp_path / str(workers))) == inline


@pytest.mark.parametrize("probe", RUNS)
@pytest.mark.parametrize("fault", ["journal.after:4", "journal.write:9", "journal.after:14"])
def test_a_probe_of_training_runs_is_killed_and_resumed(
    probe: str, fault: str, tiny: Tree, tmp_path: Path, drivers: Any
) -> None:
    tree = RUNS[probe](tiny)
    path = drivers.until_dead(tree, fault)
    resume(path)
    assert content(path) == content(finish(tree, tmp_path / "whole"))


@pytest.mark.parametrize("lr", [0.01, 2.0])
@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_search_whose_record_ends_before_that_of_a_search_in_it_goes_on_to_the_same_figures(
    lr: float, lost: int, tiny: Tree, tmp_path: Path
) -> None:
    tree = nested(tiny)
    inner = tree["evaluation"]["search"]
    inner |= {"searcher": {"type": "gradient", "lr": lr}, "validation": {"every": 1, "episodes": 4, "shard": 2}}
    tree |= {"execution": {"type": "inline"}, "budget": {"evaluations": 2}}
    path = finish(tree, tmp_path)
    before = content(path)
    figures = [one["L"] for one in of_type(path / "searches" / "000001", "validation")]
    assert (min(figures) == figures[-1]) == (lr < 1)
    lines = (path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    ends = [number for number, line in enumerate(lines) if b'"type":"evaluation"' in line]
    (path / "journal.jsonl").write_bytes(b"".join(lines[: ends[-1] + 1 - lost]))  # it, or also reports before it
    shutil.rmtree(path / "checkpoints")
    resume(path)
    assert content(path) == before


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_driver_of_tune_trials_is_killed_and_resumed_with_each_evaluation_once(
    tiny: Tree, tmp_path: Path, drivers: Any
) -> None:
    tree = trials(tiny, "random")
    tree["execution"] = {"type": "actors", "workers": 2}
    path = drivers.until_dead(tree, "journal.after:14")
    resume(path)
    assert content(path)["evaluations"] == content(finish(tree, tmp_path / "whole"))["evaluations"]
    reported = [(one["id"], one["step"]) for one in of_type(path, "report")]
    assert len(reported) == len(set(reported)) == 24


def test_tpe_learns_the_conditional_space(tiny: Tree, tmp_path: Path) -> None:
    best = {}
    for searcher in ("random", "tpe"):
        tree = {**trials(tiny, searcher), "budget": {"evaluations": 40}}
        path = finish(tree, tmp_path / searcher)
        best[searcher] = sum(sorted(one["L"] for one in of_type(path, "evaluation"))[:10])
        asked = [one["choices"] for ask in of_type(path, "ask") for one in ask["proposals"]]
        assert all(
            ("evaluation.config.rule.beta" in one) == (one["evaluation.config.rule"] == "momentum") for one in asked
        )
    assert best["tpe"] < best["random"]


def test_a_searcher_that_needs_a_fixed_objective_is_refused_beside_a_gradient(tiny: Tree) -> None:
    tree = joint(tiny)
    tree["searchers"]["controller"] = {"type": "optuna"}
    with pytest.raises(UnsupportedError, match="nest instead"):
        resolve(tree, PARTS)


def test_the_joint_search_moves_both_the_weights_and_the_policy(tiny: Tree, tmp_path: Path) -> None:
    path = finish({**joint(tiny), "budget": {"steps": 60}, "checkpoints": {"every": 60}}, tmp_path)
    losses = [one["L"] for one in of_type(path, "evaluation")]
    assert sum(losses[-30:]) < sum(losses[:30])
    assert all("reward" in one["metrics"] for one in of_type(path, "evaluation"))


def test_a_slot_that_is_registered_here_runs_without_an_edit_of_the_package(tiny: Tree, tmp_path: Path) -> None:
    tree = {**tiny, "imports": ["probes"]}
    tree["learner"] = {
        **tiny["learner"],
        "slots": {**tiny["learner"]["slots"], "gradient_noise": {"type": "normal", "size": 0.5}},
    }
    path = finish(tree, tmp_path)
    from metasearch import artifacts

    learned = artifacts.load(path / "phi").phi.part("gradient_noise")["size"]
    assert learned != 0.5
