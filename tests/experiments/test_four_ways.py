"""The comparison of four kinds of search, with next to no budget, and what it makes of figures."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from metasearch.groups import expand

SCRIPT = Path(__file__).parents[2] / "experiments" / "four_ways.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("four_ways_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_searches_take_as_many_inner_steps_and_are_measured_as_often(script):
    members = expand(script.read_tree(script.FILE))
    assert {script.steps_of(one) * one["budget"]["steps"] for one in members.values()} == {53_760}
    assert {one["budget"]["steps"] / one["validation"]["every"] for one in members.values()} == {14}
    assert len({json.dumps([one["tasks"], one["test"], one["learner"]["model"]]) for one in members.values()}) == 1


def small(tree: dict[str, Any]) -> dict[str, Any]:
    """The same searches with a few inner steps."""
    learner = {**tree["learner"], "model": {"type": "mlp", "hidden": [3]}, "steps": 2}
    few = {"episodes": 4, "shard": 4}
    variants = {
        name: {key: value for key, value in changes.items() if key not in ("budget.steps", "validation.every")}
        for name, changes in tree["variants"].items()
    }
    blocks = {"learner": learner, "validation": {**few, "every": 2}, "test": {**few, "baselines": ["random"]}}
    return {**tree, **blocks, "variants": variants, "budget": {"steps": 4}}


def test_the_whole_comparison_runs_and_goes_on_where_it_was(script, tmp_path, monkeypatch, capsys):
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(small(script.read_tree(script.FILE)), sort_keys=False))
    monkeypatch.setattr(script, "FILE", file)
    script.main(["--seeds", "1", "--out", str(tmp_path / "out"), "--seconds", "-1"])
    assert "no seed is complete yet" in capsys.readouterr().out
    script.main(["--seeds", "1", "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "table.md").read_text()
    for name in script.read_tree(script.FILE)["variants"]:
        assert f"| {name} |" in text
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    told = capsys.readouterr().out
    script.main(["--seeds", "1", "--out", str(tmp_path / "out")])
    again = capsys.readouterr().out
    assert "s of one core\n" in told
    assert again == told[told.index("L on held-out") :]


def test_the_table_has_means_and_paired_differences_over_seeds(script):
    def curve(test: list[float]) -> Any:
        along = np.linspace(4.0, 2.0, 8) + np.zeros((3, 1))
        return script.Curve(100 * np.arange(1, 9), along, np.array(test), np.full(3, 5.0), np.full(3, 7.0))

    text = script.markdown({"random": curve([1.0, 2.0, 3.0]), "tpe": curve([0.5, 1.6, 2.4])})
    # Student's 4.303 times the deviation over the root of three: of 1, 2, 3 and of -0.5, -0.4, -0.6.
    assert "| random | 3.714 ± 0.000 | 3.143 ± 0.000 | 2.000 ± 0.000 | 2.000 ± 2.484 |  | 7 |" in text
    assert "| 1.500 ± 2.370 | -0.500 ± 0.248 | 7 |" in text
    assert "800 inner steps each" in text
