"""The comparison of three families: every part with a budget of next to nothing, and what it makes of figures."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def families(modules):
    return modules("families")


@pytest.fixture(scope="module")
def plan(families):
    return families["setting"].Plan(scale=0.002, seeds=1)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("families")


def test_curves_have_validations_along_tasks_and_seconds_and_a_test(done, families, plan, out) -> None:
    rows = done(families, plan, out, "curves", {"panel": ["5-way"], "learner": ["prototypical"]})
    *along, test = rows
    assert test["what"] == "test"
    assert all(row["what"] == "validation" for row in along)
    assert [row["x"] for row in along] == [32 * (i + 1) for i in range(len(along))]
    assert all(a["seconds"] < b["seconds"] for a, b in itertools.pairwise(along))
    assert all(0 <= row["value"] <= 1 for row in rows)


def test_shift_measures_a_search_of_curves_on_other_tasks_and_with_more_steps(done, families, plan, out) -> None:
    before = sorted((out / "runs").glob("prototypical-5way-*/*"))
    drawings = {"panel": ["share of inverted pictures"], "learner": ["prototypical"], "x": [0.0, 1.0]}
    rows = done(families, plan, out, "shift", drawings)
    assert [row["x"] for row in rows] == [0.0, 1.0]
    assert sorted((out / "runs").glob("prototypical-5way-*/*")) == before
    sines = {"panel": ["sines, amplitude up to"], "learner": ["maml, steps: 1", "maml, steps: 50"], "x": [15.0]}
    one, fifty = done(families, plan, out, "shift", sines)
    assert one["value"] != fifty["value"]
    assert one["value"] > 10.0  # squares of amplitudes between 10 and 15, halved


def test_support_measures_time_and_memory_in_a_process_of_its_own(done, families, plan, out) -> None:
    (row,) = done(families, plan, out, "support", {"panel": ["5 classes"], "learner": ["prototypical"], "x": [250]})
    assert row["seconds"] > 0
    assert row["megabytes"] > 250 * 32 * 10 * 10 * 4 / 2**20 / 2  # the first maps of the support set
    assert 0 <= row["value"] <= 1


@pytest.mark.slow
def test_support_says_what_a_learner_cannot_do(done, families, plan, out) -> None:
    rows = done(families, plan, out, "support", {"panel": ["classes"], "learner": ["snail"], "x": [5, 20]})
    assert rows[0]["value"] is not None
    assert rows[1]["value"] is None
    assert "another number of outputs" in rows[1]["note"]
    given = {"phi": "nowhere", "shots": 1, "episodes": 1, "seed": 0, "memory": 1.0}
    assert "(with at most 1 GB)" in families["crowd"].apart(given, 300.0)["note"]


def test_pool_repeats_few_tasks(done, families, plan, out) -> None:
    (row,) = done(families, plan, out, "pool", {"learner": ["maml"], "x": [10]})
    assert row["x"] == 10
    jobs = families["parts"].pool(plan)
    assert {job.given["tree"]["tasks"]["pool"] for job in jobs} == {10, 100, 1000, None}


def test_context_is_trained_and_measured_within_alphabets_and_across(done, families, plan, out) -> None:
    rows = done(
        families, plan, out, "context", {"panel": ["trained within alphabets"], "learner": ["matching in context"]}
    )
    assert [row["what"] for row in rows] == ["across alphabets", "within alphabets"]


def test_untrained_is_measured_beside_trained_and_hard_neighbours_beside_soft(done, families, plan, out) -> None:
    rows = done(families, plan, out, "untrained", {"learner": ["prototypical", "soft in training"]})
    assert [row["what"] for row in rows] == ["random", "trained", "soft at test", "hard at test"]
    assert rows[2]["value"] != rows[3]["value"] or rows[2]["ci95"] != rows[3]["ci95"]


def test_spread_is_a_search_over_searches(done, families, plan, out) -> None:
    rows = done(families, plan, out, "spread", {"learner": ["prototypical"]})
    assert len(rows) == 3
    assert len({row["note"] for row in rows}) == 3
    assert "searcher.lr=" in rows[0]["note"]


@pytest.mark.slow
def test_all_parts_run_with_one_command_and_go_on_where_they_were(families, tmp_path, capsys) -> None:
    command = ["--out", str(tmp_path), "--scale", "0.002", "--seeds", "1"]
    families["__main__"].main([*command, "--seconds", "1"])
    assert "the same command goes on" in capsys.readouterr().out
    families["__main__"].main(command)
    assert {path.stem for path in tmp_path.glob("*.png")} == set(families["parts"].PARTS)
    capsys.readouterr()
    families["__main__"].main(command)
    assert capsys.readouterr().out.count(": 0 jobs to do") == len(families["parts"].PARTS)


def test_further_examples_are_the_drawings_again_but_moved(families) -> None:
    small, large = (families["crowd"].Crowd(3, shots, 20) for shots in (2, 20))
    seeds = np.arange(2)
    few, many = small.sample("test", seeds), large.sample("test", seeds)
    assert many.support.x.shape == (2, 60, 1, 20, 20)
    assert many.support.y[0].tolist() == [0] * 20 + [1] * 20 + [2] * 20
    torch.testing.assert_close(few.query.x, many.query.x, rtol=0, atol=0)
    base = small.base.sample("test", seeds).support.x
    torch.testing.assert_close(many.support.x[:, 20:35], base[:, 15:30])  # class 1, as drawn
    again, first = many.support.x[:, 35:40], base[:, 15:20]
    assert (again - first).abs().amax((2, 3, 4)).min() > 0.1
    assert (again.sum((2, 3, 4)) / first.sum((2, 3, 4))).sub(1).abs().max() < 0.5


def test_seeds_are_averaged_with_intervals_over_episodes_and_over_seeds(families) -> None:
    labels = {"panel": "5-way", "learner": "maml", "what": "test", "x": 1, "episodes": 100}
    rows = [{**labels, "seed": 0, "value": 0.8, "ci95": 0.03}, {**labels, "seed": 1, "value": 0.9, "ci95": 0.04}]
    (row,) = families["tables"].averaged([*rows, {**labels, "seed": 2, "value": None, "ci95": None, "note": "no"}])
    assert row["value"] == pytest.approx(0.85)
    assert row["ci95"] == pytest.approx(0.025)
    assert row["ci95_seeds"] == pytest.approx(1.96 * 0.05 * math.sqrt(2) / math.sqrt(2))
    assert (row["seeds"], row["notes"]) == (3, "no")


def test_learners_are_compared_after_what_all_of_them_have_had(families) -> None:
    along = [("maml", 32, 1.0, 0.5), ("maml", 64, 2.0, 0.6), ("snail", 32, 2.0, 0.3), ("snail", 64, 4.0, 0.4)]
    rows = [
        {"panel": "5-way", "learner": name, "what": "validation", "x": x, "seconds": s, "value": value}
        for name, x, s, value in along
    ]
    found = families["figures"]._compared(rows)
    assert [(row["learner"], row["what"], row["value"]) for row in found] == [
        ("maml", "validation after 64 tasks", 0.6),
        ("snail", "validation after 64 tasks", 0.4),
        ("maml", "validation after 2 s", 0.6),
        ("snail", "validation after 2 s", 0.3),
    ]
