"""Schedulers: their settings, what counts as worse, and how their memory is rebuilt."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, HyperBandScheduler, MedianStoppingRule, TrialScheduler

from metasearch.core.errors import ConfigError
from metasearch.core.values import Report
from metasearch.execution.schedulers import RANK, TIME, Asha, Median, Ranking, feed, make_scheduler, parse_scheduler

pytestmark = pytest.mark.ray


class Candidate(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]


def decision(scheduler: Any, name: str, step: int, rank: float) -> str:
    """What a scheduler says to the first report of a new trial."""
    trial = Candidate(trial_id=name, status="RUNNING")
    scheduler.on_trial_add(None, trial)
    answer: str = scheduler.on_trial_result(None, trial, {TIME: step, RANK: rank})
    return answer


def history(losses: list[float]) -> list[tuple[int, list[Report]]]:
    return [(i, [Report(1, {"L": 9.0}), Report(2, {"L": loss})]) for i, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (None, FIFOScheduler),
        ({"type": "none"}, FIFOScheduler),
        ({"type": "asha", "grace": 3, "reduction": 3, "max": 27}, ASHAScheduler),
        ({"type": "hyperband", "max": 27}, HyperBandScheduler),
        ({"type": "median", "grace": 2}, MedianStoppingRule),
    ],
)
def test_settings_give_tunes_scheduler(settings: dict[str, Any] | None, kind: type[TrialScheduler]) -> None:
    assert isinstance(make_scheduler(parse_scheduler(settings)), kind)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "ahsa"}, r"scheduler\.type: unknown scheduler 'ahsa'; did you mean 'asha'"),
        ({"type": "asha", "gracee": 3}, r"scheduler\.gracee: unknown key; did you mean 'grace'"),
        ({"type": "asha", "grace": 0}, r"scheduler\.grace"),
        ({"type": "hyperband"}, r"scheduler\.max: is required"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_scheduler(settings)


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_rank_last(mode: Any, sign: int, value: float) -> None:
    ranking = Ranking(mode=mode)
    worst = ranking.rank(Report(1, {"L": value}))
    assert math.isfinite(worst)
    assert sign * worst > sign * ranking.rank(Report(1, {"L": sign * 1e20}))


def test_missing_metric_names_what_was_reported() -> None:
    with pytest.raises(ConfigError, match=r"compared by 'validation/L', which was not reported; .*valid: L, loss"):
        Ranking(metric="validation/L").rank(Report(1, {"L": 1.0, "loss": 2.0}))


def test_fed_asha_stops_a_new_trial_as_the_old_one_would_have() -> None:
    settings = Asha(type="asha", grace=2, reduction=2)
    fed, fresh = make_scheduler(settings), make_scheduler(settings)
    feed(fed, settings, history([1.0, 2.0, 3.0]))
    assert decision(fed, "worse", 2, 2.5) == TrialScheduler.STOP
    assert decision(fed, "better", 2, 0.5) == TrialScheduler.CONTINUE
    assert decision(fresh, "worse", 2, 2.5) == TrialScheduler.CONTINUE


def test_asha_lets_survivors_finish() -> None:
    scheduler = make_scheduler(Asha(type="asha", grace=1, reduction=2, max=4))
    assert decision(scheduler, "alone", 4, 1.0) == TrialScheduler.CONTINUE
    assert decision(scheduler, "beyond", 5, 0.5) == TrialScheduler.CONTINUE


def test_fed_median_rule_compares_with_finished_trials() -> None:
    settings = Median(type="median", grace=1, min_trials=3)
    scheduler = make_scheduler(settings)
    feed(scheduler, settings, history([1.0, 2.0, 3.0]))
    assert decision(scheduler, "worse", 2, 8.0) == TrialScheduler.STOP  # the means are 5, 5.5 and 6
    assert decision(scheduler, "better", 2, 4.0) == TrialScheduler.CONTINUE


def test_hyperband_lets_the_best_of_a_bracket_pass_and_stops_the_others() -> None:
    """Tune's first bracket (two trials, at these settings) compares nothing; the second one has four."""
    scheduler = make_scheduler(parse_scheduler({"type": "hyperband", "max": 4, "reduction": 4}))
    stopped = []

    def stop(trial: Any) -> None:
        trial.status = "TERMINATED"
        stopped.append(trial.trial_id)
        scheduler.on_trial_remove(controller, trial)

    controller: Any = SimpleNamespace(stop_trial=stop)
    trials: list[Any] = [Candidate(trial_id=str(i), status="RUNNING", is_saving=False) for i in range(6)]
    for trial in trials:
        scheduler.on_trial_add(controller, trial)
    answers = []
    for trial, rank in zip(trials, (5.0, 6.0, 3.0, 1.0, 4.0, 2.0), strict=True):
        answers.append(scheduler.on_trial_result(controller, trial, {TIME: 1, RANK: rank}))
        trial.status = {"PAUSE": "PAUSED", "STOP": "TERMINATED"}.get(answers[-1], "RUNNING")
    assert answers == ["CONTINUE", "CONTINUE", "PAUSE", "PAUSE", "PAUSE", "STOP"]
    assert sorted(stopped) == ["2", "4"]
    assert scheduler.choose_trial_to_run(controller) is trials[3]
    trials[3].status = "RUNNING"
    for step in range(2, 7):
        assert scheduler.on_trial_result(controller, trials[3], {TIME: step, RANK: 9.0}) == TrialScheduler.CONTINUE


def test_feeding_hyperband_leaves_it_fresh() -> None:
    settings = parse_scheduler({"type": "hyperband", "max": 9})
    scheduler = make_scheduler(settings)
    feed(scheduler, settings, history([1.0]))
    assert isinstance(scheduler, HyperBandScheduler)
    assert scheduler._trial_info == {}
