"""The script that compares searchers on tables, with few evaluations and in this process."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from metasearch.tasks import nas_tables

SCRIPT = Path(__file__).parents[2] / "experiments" / "nas_tables.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("nas_tables_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "EVALUATIONS", 30)
    return module


def test_every_method_searches_and_repeats_itself(script, monkeypatch):
    monkeypatch.setattr(script, "EVALUATIONS", 12)
    table = script.TABLES["NAS-Bench-201, CIFAR-10"]
    for settings in script.METHODS.values():
        rows = script.searched(table, settings, 0)
        assert len(rows) == 12
        assert 0 <= min(rows) <= max(rows) < 5**6
    assert script.searched(table, script.METHODS["PPO"], 1) == script.searched(table, script.METHODS["PPO"], 1)


def test_the_score_is_the_test_accuracy_of_the_best_by_validation_so_far(script):
    table = ("nasbenchmacro", "cifar10")
    known = nas_tables.load(*table)
    rows = script.chunk(table, {"type": "random"}, range(2))
    expected = [
        [100 * known.test[max(run[: n + 1], key=lambda r: known.validation[r])] for n in range(30)] for run in rows
    ]
    np.testing.assert_allclose(script.scores(table, rows), expected)


def test_what_was_searched_is_found_again_and_only_without_a_gap(script, tmp_path):
    store, table = script.Store(tmp_path), "NAS-Bench-Macro"
    rows = np.arange(5 * 30, dtype=np.int16).reshape(5, 30)
    assert store.rows(table, "random").shape == (0, 30)
    store.add(store.path(table, "random", 5), rows)
    assert len(store.rows(table, "random")) == 0
    store.add(store.path(table, "random", 0), rows + 1)
    np.testing.assert_array_equal(store.rows(table, "random"), np.concatenate([rows + 1, rows]))
    assert len(store.rows(table, "PPO")) == 0


def test_the_table_and_the_picture_hold_every_method(script):
    found = {
        name: {"random": np.full((3, 500), 80.0), "PPO": np.full((3, 500), 88.0) + np.arange(3)[:, None]}
        for name in script.TABLES
    }
    text = script.markdown(found)
    highest = 100 * nas_tables.load("nasbench201").test.max()
    assert f"| random | 3 | {highest - 80:.2f} ± 0.00 |" in text
    assert "| +9.00 ± 2.48 |" in text  # 1 / sqrt(3) times Student's 4.303
    script.EVALUATIONS = 500
    assert len(script.picture(found).axes) == 2
