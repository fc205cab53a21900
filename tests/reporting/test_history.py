import math

import numpy as np
import pytest

from metasearch.reporting.history import History


def test_series_stand_against_steps_time_and_tasks(make) -> None:
    run = make()
    run.start()
    for step in range(3):
        run.journal.now = 10.0 * (step + 1)
        run.evaluation(step, 1.0 / (step + 1), metrics={"accuracy": 0.1 * step}, norm=2.0)
    run.validation(3, 0.25, 0.9)
    history = History(run.path)
    series = history.evaluations
    assert series.along("steps").tolist() == [0, 1, 2]
    assert series.along("seconds").tolist() == [10, 20, 30]
    assert series.along("tasks").tolist() == [32, 64, 96]
    assert series.along("evaluations").tolist() == [1, 2, 3]
    assert series.values["L"] == pytest.approx([1, 1 / 2, 1 / 3])
    assert series.values["gradient norm"].tolist() == [2, 2, 2]
    assert history.validations.tasks.tolist() == [96]
    assert history.validations.ci95["accuracy"].tolist() == [0.007]


def test_a_metric_that_some_evaluations_lack_is_nan_there(make) -> None:
    run = make()
    run.start()
    run.evaluation(0, 1.0, metrics={"accuracy": 0.5})
    run.evaluation(1, math.nan, "failed", failure={"kind": "user_error", "message": "no"})
    history = History(run.path)
    assert np.isnan(history.evaluations.values["accuracy"]).tolist() == [False, True]
    assert history.bad.tolist() == [False, True]
    assert history.counts() == {"ok": 1, "failed": 1}


def test_proposals_come_best_first_then_diverged_failed_and_open(make) -> None:
    run = make()
    run.start()
    for id in range(5):
        run.ask(id, {"lr": id})
    run.evaluation(0, 2.0)
    run.evaluation(1, math.nan, "failed", failure={"kind": "lost", "message": "node"})
    run.evaluation(2, math.inf, "diverged", diverged=[0])
    run.evaluation(3, 1.0)
    found = History(run.path).proposals
    assert [(one.id, one.status) for one in found] == [
        (3, "ok"),
        (0, "ok"),
        (2, "diverged"),
        (1, "failed"),
        (4, "open"),
    ]
    assert found[3].message == "lost: node"


def test_a_published_accuracy_in_percent_becomes_a_share(make) -> None:
    paper = {"method": "MAML", "value": 98.7, "interval": 0.4}
    history = History(make(paper=paper).path)
    assert history.paper["value"] == pytest.approx(0.987)
    assert history.paper["interval"] == pytest.approx(0.004)


def test_a_published_loss_stays_as_it_is(make) -> None:
    history = History(make(paper={"method": "MAML", "value": 0.6, "metric": "L"}).path)
    assert history.paper["value"] == 0.6
    assert math.isnan(history.paper["interval"])


def test_the_best_validation_is_the_last_that_was_best(make) -> None:
    run = make()
    run.start()
    for step, best in ((1, True), (2, True), (3, False)):
        run.validation(step, 1.0, 0.5, best=best)
    best = History(run.path).best_validation
    assert best is not None
    assert best["step"] == 2


def test_a_regression_search_is_judged_by_L(make) -> None:
    run = make(validation={"every": 1, "select": "L"})
    run.start()
    run.evaluation(0, 1.0, metrics={"updates": 3.0})
    assert History(run.path).metric == "L"
