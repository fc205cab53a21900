"""A search whose outer steps share trajectories: killed, resumed, extended, replayed."""

from pathlib import Path
from typing import Any

import pytest
from records import content, of_type

from metasearch.rehearsal import replay
from metasearch.resolution import resolve
from metasearch.running import extend, resume, run


@pytest.fixture
def acting(tiny: dict[str, Any]) -> dict[str, Any]:
    return {
        **tiny,
        "tasks": {"type": "navigation", "horizon": 4, "trajectories": 3, "queries": 3},
        "learner": {"type": "policy", "model": {"type": "mlp", "hidden": [4]}, "surrogate": "ratio"},
        "evaluation": {"type": "episodes", "estimator": {"type": "ppo", "epochs": 3}, "tasks": 4, "shard": 2},
        "budget": {"steps": 7},
        "test": None,
    }


def test_a_search_that_is_killed_between_two_collections_resumes_to_the_same_end(
    acting: dict[str, Any], tmp_path: Path, drivers: Any
) -> None:
    whole = content(run(resolve(acting), root=tmp_path / "whole").directory.path)
    path = drivers.until_dead(acting, "journal.after:14")  # evaluation 4, one after a checkpoint; 3 was a collection
    assert of_type(path, "evaluation")[-1]["id"] == 4
    assert resume(path).status == "finished"
    assert content(path) == whole


def test_it_is_extended_and_replayed_between_two_collections(acting: dict[str, Any], tmp_path: Path) -> None:
    whole = run(resolve(acting), root=tmp_path / "whole").directory.path
    short = run(resolve({**acting, "budget": {"steps": 5}}), root=tmp_path / "short").directory.path
    extend(short, ["budget.steps=7"])
    assert of_type(short, "evaluation") == of_type(whole, "evaluation")
    found = [one["L"] for one in of_type(whole, "evaluation")]
    assert found[0] == found[1] == found[2] != found[3] == found[4] == found[5] != found[6]
    assert len({one["gradient"]["hash"] for one in of_type(whole, "evaluation")}) == 7
    for evaluation in (2, 4):
        assert replay(whole, evaluation, say=lambda text: None)["equal"]
