"""Several runs as one: expansion, resume, and a table with paired intervals."""

import sys
from pathlib import Path
from typing import Any

import pytest
from records import content

from metasearch.core.errors import ConfigError
from metasearch.groups import expand, is_group, resume_group, run_group
from metasearch.running import resume


def test_seeds_and_variants_expand_to_every_combination() -> None:
    members = expand(
        {
            "name": "x",
            "seed": 9,
            "seeds": [0, 1],
            "variants": {"a": {}, "b": {"budget.steps": 2}},
            "budget": {"steps": 1},
        }
    )
    assert list(members) == ["a-0", "a-1", "b-0", "b-1"]
    assert [one["seed"] for one in members.values()] == [0, 1, 0, 1]
    assert [one["budget"]["steps"] for one in members.values()] == [1, 1, 2, 2]


@pytest.mark.parametrize(("key", "value"), [("seeds", "0, 1"), ("variants", ["a", "b"])])
def test_a_malformed_group_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        expand({key: value})
    assert caught.value.path == key


def test_a_group_ends_in_one_table_with_paired_differences(tiny: dict[str, Any], tmp_path: Path) -> None:
    tree = {
        **tiny,
        "budget": {"steps": 3},
        "seeds": [0, 1, 2],
        "variants": {"second": {}, "first": {"evaluation.estimator": "first_order"}, "same": {}},
    }
    group = run_group(tree, root=tmp_path)
    assert group.status == "finished"
    assert group.metric == "test L"
    second, first, same = group.rows
    assert (second.difference, same.difference, same.difference_ci95) == (None, 0.0, 0.0)
    assert first.values != second.values
    assert first.difference == pytest.approx(first.mean - second.mean)
    assert first.difference_ci95 is not None
    assert first.difference_ci95 > 0


def test_a_group_resumes_where_it_stopped(tiny: dict[str, Any], tmp_path: Path) -> None:
    tree = {**tiny, "budget": {"steps": 3}, "seeds": [0, 1]}
    group = run_group(tree, root=tmp_path)
    before = content(group.path / "seed-0")
    import shutil

    shutil.rmtree(group.path / "seed-1")
    assert is_group(group.path)
    again = resume_group(group.path)
    assert [row.values for row in again.rows] == [row.values for row in group.rows]
    assert content(group.path / "seed-0")["evaluations"] == before["evaluations"]


def test_parts_beside_the_file_are_found_by_each_member(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside_the_file.py").write_text("def train(config, trial):\n    return config['x']\n")
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    monkeypatch.setattr("sys.path", [*sys.path])
    tree = {
        "name": "beside",
        "evaluation": {"type": "objective", "function": "beside_the_file:train", "config": {"x": {"int": [1, 3]}}},
        "searcher": {"type": "random"},
        "budget": {"evaluations": 2},
        "execution": {"type": "inline"},
        "tracking": {"mlflow": False, "report": False},
        "seeds": [0, 1],
    }
    assert run_group(tree, folder=tmp_path, root=tmp_path / "runs").status == "finished"


TWO_SIDED = """
def train(config, trial):
    return {"L": config["x"], "size": 10 - config["x"] + config["extra"], "test_L": 2.0 * config["x"] + 1.0}
"""


def choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> dict[str, Any]:
    (tmp_path / f"{module}.py").write_text(TWO_SIDED)
    monkeypatch.setattr("sys.path", [*sys.path])
    return {
        "name": "choices",
        "evaluation": {
            "type": "objective",
            "function": f"{module}:train",
            "config": {"x": {"int": [0, 10]}, "extra": 0},
        },
        "searcher": {"type": "optuna", "sampler": "grid"},
        "budget": {"evaluations": 11},
        "execution": {"type": "inline"},
        "tracking": {"mlflow": False, "report": False},
        "variants": {"plain": {}, "larger": {"evaluation.config.extra": 2}},
        "seeds": [0, 1],
    }


def test_searches_with_several_objectives_are_compared_by_hypervolume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {**choices(tmp_path, monkeypatch, "two_sided"), "objectives": {"L": "min", "size": "min"}}
    group = run_group(tree, folder=tmp_path, root=tmp_path / "runs")
    plain, larger = group.rows
    assert group.metric == "hypervolume"
    # all eleven points are compromises: a staircase in a box of 10 by 12, and the same two higher
    assert plain.values == pytest.approx([sum(12 - (10 - x) for x in range(10)) / 120] * 2)
    assert larger.values == pytest.approx([sum(12 - (12 - x) for x in range(10)) / 120] * 2)
    assert larger.difference == pytest.approx(larger.mean - plain.mean)


def test_a_run_is_resumed_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = run_group(choices(tmp_path, monkeypatch, "from_anywhere"), folder=tmp_path, root=tmp_path / "runs")
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    monkeypatch.setattr("sys.path", [place for place in sys.path if place != str(tmp_path)])
    monkeypatch.delitem(sys.modules, "from_anywhere")
    assert resume_group(group.path).rows == group.rows
    assert resume(group.path / "plain-0").status == "finished"


def test_training_runs_are_compared_by_what_no_search_has_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = run_group(choices(tmp_path, monkeypatch, "unseen"), folder=tmp_path, root=tmp_path / "runs")
    assert group.metric == "test L of the best"
    assert [row.values for row in group.rows] == [(1.0, 1.0), (1.0, 1.0)]  # not the L of 0 that chose them
