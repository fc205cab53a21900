"""Training runs as Ray Tune trials."""

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from execution_programs import Broken, Program, call, checkpoint_step, drain, phi, trial

from metasearch.core.errors import ExecutionError
from metasearch.core.values import Call, Failure, Measurement, Report
from metasearch.execution import Inline, Trials

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trials")


@pytest.fixture(scope="module")
def trials(local_ray: None, storage: Path) -> Iterator[Trials]:
    """Two workers, no scheduler."""
    with Trials(Program, 2, storage=storage) as executor:
        yield executor


@pytest.fixture(scope="module")
def halving(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """One worker and ASHA, which knows three finished trials with losses around 0.5 at step 2."""
    with Trials(
        Program, 1, storage=tmp_path_factory.mktemp("asha"), scheduler={"type": "asha", "grace": 2, "reduction": 2}
    ) as executor:
        executor.restore([(100 + i, [Report(2, {"L": 0.5 + 0.01 * i})]) for i in range(3)])
        yield executor


@pytest.fixture(scope="module")
def band_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bands")


@pytest.fixture(scope="module")
def bands(local_ray: None, band_storage: Path) -> Iterator[Trials]:
    """Two workers and HyperBand with brackets of two trials (never halved) and three (halved after one step)."""
    with Trials(
        Program, 2, storage=band_storage, scheduler={"type": "hyperband", "max": 3, "reduction": 3}
    ) as executor:
        yield executor


def value(end: Measurement | Failure) -> float:
    assert isinstance(end, Measurement), end
    return float(end.query[0])


def stopped(end: Measurement | Failure) -> bool:
    assert isinstance(end, Measurement), end
    return "stopped" in end.metrics and end.metrics["stopped"][0] == 1.0


def test_reports_and_measurements_equal_those_in_the_process(trials: Trials, storage: Path, tmp_path: Path) -> None:
    calls = [trial(i) for i in range(3)]
    with Inline(Program, tmp_path) as inline:
        expected, expected_ends = drain(inline, calls)
    reports, ends = drain(trials, calls)
    for i in range(3):
        assert [(r.step, r.metrics["L"], r.checkpoint) for r in reports[i]] == [
            (r.step, r.metrics["L"], r.checkpoint) for r in expected[i]
        ]
        assert [checkpoint_step(storage, r) for r in reports[i]] == list(range(1, 10))
        assert value(ends[i]) == value(expected_ends[i])
        assert not stopped(ends[i])


def test_runs_that_raise_or_never_report_end_too(trials: Trials) -> None:
    reports, ends = drain(trials, [trial(10, "failing"), trial(11, "silent"), trial(12, "mistake"), trial(13)])
    assert [r.step for r in reports[10]] == [1, 2]
    failure = ends[10]
    assert isinstance(failure, Failure)
    assert (failure.kind, "third step" in failure.message) == ("user_error", True)
    assert "stumble" in failure.traceback
    assert value(ends[11]) == 11
    assert isinstance(ends[12], Failure)
    assert value(ends[13]) == 13


def test_workers_stay_from_batch_to_batch(trials: Trials) -> None:
    used = []
    for batch in ((50, 51), (52, 53), (54, 55)):
        reports, _ = drain(trials, [trial(number, "together") for number in batch])
        used.append({int(reports[number][0].metrics["pid"]) for number in batch})
    assert used[0] == used[1] == used[2]
    assert len(used[0]) == 2


def test_function_calls_are_answered_as_well(trials: Trials) -> None:
    shared = trials.put(phi())
    _, ends = drain(trials, [call(i, "scribble", shared) for i in range(2)])
    assert value(ends[0]) == value(ends[1]) == float(phi().tensors["initialization.w"].double().sum())


def test_run_that_an_earlier_process_began_is_continued(trials: Trials, storage: Path) -> None:
    first, _ = drain(trials, [trial(20)])
    newest = first[20][4].checkpoint
    again, ends = drain(trials, [trial(20, restored=newest, after=6)])
    assert [r.step for r in again[20]] == [7, 8, 9]
    assert [checkpoint_step(storage, r) for r in again[20]] == [7, 8, 9]
    end = ends[20]
    assert isinstance(end, Measurement)
    assert end.metrics["done"][0] == 4


def test_killed_worker_goes_on_from_the_newest_checkpoint_without_repeating_reports(trials: Trials) -> None:
    killed = []

    def kill(one: Call, report: Report) -> None:
        if one.proposal == 30 and report.step == 3 and not killed:
            killed.append(int(report.metrics["pid"]))
            os.kill(killed[0], signal.SIGKILL)

    reports, ends = drain(trials, [trial(30, "slow"), trial(31, "slow")], kill)
    for i in (30, 31):
        assert [r.step for r in reports[i]] == [1, 2, 3, 4, 5, 6]
        assert value(ends[i]) == i
    end = ends[30]
    assert isinstance(end, Measurement)
    assert end.metrics["done"][0] <= 3
    assert int(reports[30][-1].metrics["pid"]) != killed[0]


def test_asha_stops_what_is_worse_than_finished_trials(halving: Trials) -> None:
    reports, ends = drain(halving, [trial(0), trial(5), trial(6, "careless")])
    assert [len(reports[i]) for i in (0, 5, 6)] == [9, 2, 2]
    assert [stopped(ends[i]) for i in (0, 5, 6)] == [False, True, True]
    assert value(ends[5]) == reports[5][-1].metrics["L"] == 5.5
    assert value(ends[0]) == 0
    assert isinstance(ends[5], Measurement)
    assert ends[5].seconds > 0


def test_diverging_run_is_stopped_and_keeps_its_nan(halving: Trials) -> None:
    reports, ends = drain(halving, [trial(7, "diverging")])
    assert math.isnan(reports[7][0].metrics["L"])
    assert len(reports[7]) == 2
    assert stopped(ends[7])
    assert math.isnan(value(ends[7]))


def test_history_must_come_first(halving: Trials) -> None:
    drain(halving, [trial(8, "silent")])
    with pytest.raises(ExecutionError, match="before the first submit"):
        halving.restore([])


def test_hyperband_puts_trials_aside_and_continues_the_best_from_their_checkpoints(bands: Trials) -> None:
    reports, ends = drain(bands, [trial(i) for i in range(5)])
    for i in range(5):
        steps = [r.step for r in reports[i]]
        assert steps == list(range(1, len(steps) + 1))
        assert stopped(ends[i]) == (len(steps) < 9)
    assert [stopped(ends[i]) for i in (0, 1)] == [False, False]  # the first bracket halves nothing
    assert 1 <= sum(stopped(ends[i]) for i in (2, 3, 4)) <= 2


def test_closing_ends_running_trials_and_leaves_only_checkpoints(bands: Trials, band_storage: Path) -> None:
    bands.submit(trial(9, "slow"))
    while not bands.wait(60):
        pass
    bands.close()
    assert bands.wait(1) == []
    assert {path.name for path in band_storage.iterdir()} <= {"0", "1", "2", "3", "4", "9"}


@pytest.mark.slow
def test_program_that_cannot_be_built_fails_the_run(local_ray: None, tmp_path: Path) -> None:
    with Trials(Broken, 1, storage=tmp_path) as executor:
        _, ends = drain(executor, [trial(0)])
    failure = ends[0]
    assert isinstance(failure, Failure)
    assert (failure.kind, "data/omniglot is missing" in failure.message) == ("user_error", True)


def test_oversized_pools_are_refused(local_ray: None, tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="2 workers need 6 CPU"):
        Trials(Program, 2, storage=tmp_path, inner_workers=2)
