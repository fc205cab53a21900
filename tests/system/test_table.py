from __future__ import annotations

from typing import Any

import pytest

import metasearch as ms
from metasearch import resolution
from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.loaded import load
from metasearch.tasks import nas_tables
from metasearch.tracking.journal import read


def tree(**changes: Any) -> dict[str, Any]:
    return {
        "name": "cells",
        "evaluation": {"type": "table", "table": "nasbench201"},
        "searcher": {"type": "evolution", "population": 5},
        "test": {},
        "budget": {"evaluations": 20},
        "execution": {"type": "inline"},
        "tracking": {"mlflow": False},
        "seed": 3,
        **changes,
    }


def test_a_search_sees_validation_and_is_scored_by_the_test_of_its_best(tmp_path: Any) -> None:
    outcome = ms.run(tree(), runs=tmp_path)
    table = nas_tables.load("nasbench201")
    records = read(outcome.directory.journal_path)
    asked = {p["id"]: p["choices"] for one in records if one["type"] == "ask" for p in one["proposals"]}
    evaluations = [one for one in records if one["type"] == "evaluation"]
    assert len(evaluations) == 20
    rows = {}
    for one in evaluations:
        cell = {name.removeprefix("evaluation."): value for name, value in asked[one["id"]].items()}
        rows[one["id"]] = table.row(cell)
        assert one["L"] == 1.0 - table.validation[rows[one["id"]]]
        assert table.test[rows[one["id"]]] not in one["metrics"].values()
    best = min(evaluations, key=lambda one: one["L"])
    (test,) = [one for one in records if one["type"] == "test"]
    assert test["metrics"]["accuracy"] == table.test[rows[best["id"]]]
    assert outcome.results["test"]["L"] == 1.0 - table.test[rows[best["id"]]]
    assert dict(load(outcome.phi_path).phi.choices) == asked[best["id"]]
    assert [one["type"] for one in read(ms.resume(outcome.directory.path).directory.journal_path)].count("test") == 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"evaluation": {"type": "table", "table": "nasbench20"}}, "did you mean 'nasbench201'"),
        ({"scheduler": {"type": "asha"}}, "scheduler.*function calls"),
        ({"validation": {"every": 5}}, "validation"),
        ({"test": {"baselines": ["random"]}}, "baselines"),
        ({"searcher": {"type": "gradient"}}, "no searcher takes choices"),
    ],
)
def test_what_a_table_cannot_do_is_refused_before_it_starts(changes: Any, problem: str) -> None:
    with pytest.raises((ConfigError, UnsupportedError), match=problem):
        resolution.load(tree(**changes))
