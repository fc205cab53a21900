"""The in-process executor: the reference for the others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from execution_programs import Broken, Program, answer, call, checkpoint_step, drain, phi, trial

from metasearch.core.values import Failure, Measurement, Report
from metasearch.execution import Inline, gather


def test_calls_are_answered_in_order_of_submission() -> None:
    with Inline(Program) as executor:
        shared = executor.put(phi())
        calls = [call(i, phi=shared) for i in range(4)]
        for one in calls:
            executor.submit(one)
        arrived = [executor.wait()[0] for _ in calls]
        assert [got for got, _ in arrived] == calls
        assert executor.wait() == []
    seeds = [outcome.metrics["seed"][0] for _, outcome in arrived if isinstance(outcome, Measurement)]
    assert seeds == [100, 101, 102, 103]


def test_put_phi_is_safe_from_the_program_and_from_the_driver() -> None:
    value = phi()
    total = float(value.tensors["initialization.w"].double().sum())
    with Inline(Program) as executor:
        shared = executor.put(value)
        value.tensors["initialization.w"].zero_()
        sums = [m.query[0] for m in gather(executor, [call(i, "scribble", shared) for i in range(3)])]
    assert sums == [total] * 3


def test_phi_by_value_is_not_written_to() -> None:
    value = phi()
    with Inline(Program) as executor:
        gather(executor, [call(0, "scribble", value)])
    assert torch.equal(value.tensors["initialization.w"], phi().tensors["initialization.w"])


def test_errors_become_failures_and_the_next_call_runs() -> None:
    with Inline(Program) as executor:
        _, ends = drain(executor, [call(0, "mistake"), call(1, "too_large"), call(2, "leave"), call(3, phi=phi())])
    kinds = [end.kind if isinstance(end, Failure) else "measured" for end in ends.values()]
    assert kinds == ["user_error", "out_of_memory", "user_error", "measured"]


def test_program_that_cannot_be_built_fails_each_call() -> None:
    with Inline(Broken) as executor:
        _, ends = drain(executor, [call(0), call(1)])
    assert all(isinstance(end, Failure) and "data/omniglot is missing" in end.message for end in ends.values())


def test_program_is_built_at_the_first_call_and_once() -> None:
    built = []

    def setup() -> Program:
        built.append(1)
        return Program()

    with Inline(setup) as executor:
        executor.submit(call(0, phi=phi()))
        assert built == []
        gather(executor, [])
        executor.wait()
        gather(executor, [call(1, phi=phi())])
    assert built == [1]


def test_training_run_delivers_reports_one_by_one_then_its_measurement(tmp_path: Path) -> None:
    with Inline(Program, tmp_path) as executor:
        executor.submit(trial(5))
        first = executor.wait()
        assert [type(outcome) for _, outcome in first] == [Report]
        assert not (tmp_path / "5" / "1").exists()  # the run stands still until it is waited for
        rest = [executor.wait()[0][1] for _ in range(9)]
        assert executor.wait() == []
    assert [outcome.step for outcome in rest if isinstance(outcome, Report)] == list(range(2, 10))
    assert isinstance(rest[-1], Measurement)


def test_training_run_is_restored_from_its_checkpoint(tmp_path: Path) -> None:
    with Inline(Program, tmp_path) as executor:
        reports, _ = drain(executor, [trial(0)])
        assert [checkpoint_step(tmp_path, report) for report in reports[0]] == list(range(1, 10))
        newest = reports[0][3].checkpoint
        again, ends = drain(executor, [trial(0, restored=newest, after=6)])
    assert [report.step for report in again[0]] == [7, 8, 9]
    assert [report.checkpoint for report in again[0]] == ["0/6", "0/7", "0/8"]
    end = ends[0]
    assert isinstance(end, Measurement)
    assert end.metrics["done"][0] == 5


def test_training_run_that_raises_keeps_its_reports(tmp_path: Path) -> None:
    with Inline(Program, tmp_path) as executor:
        reports, ends = drain(executor, [trial(0, "failing"), trial(1, "backwards")])
    assert [report.step for report in reports[0]] == [1, 2]
    assert isinstance(ends[0], Failure)
    assert "the third step" in ends[0].message
    assert isinstance(ends[1], Failure)
    assert "steps must grow" in ends[1].message


def test_close_ends_a_training_run_in_progress(tmp_path: Path) -> None:
    finished = []

    class Careful(Program):
        def guarded(self, call: object, trial: object) -> Measurement:
            try:
                return self.careless(call, trial)  # type: ignore[arg-type]
            finally:
                finished.append(True)

    executor = Inline(Careful, tmp_path)
    executor.submit(trial(0, "guarded"))
    executor.wait()
    executor.close()
    assert finished == [True]
    assert executor.wait() == []


def test_measurement_is_the_same_object_in_value() -> None:
    expected = answer(2.0, x=1.0)

    class Fixed(Program):
        def fixed(self, call: object) -> Measurement:
            return expected

    with Inline(Fixed) as executor:
        (got,) = gather(executor, [call(0, "fixed")])
    np.testing.assert_array_equal(got.query, expected.query)
    assert got is not expected


@pytest.mark.parametrize("storage", [None])
def test_without_a_storage_folder_checkpoints_are_temporary(storage: None) -> None:
    executor = Inline(Program, storage)
    reports, _ = drain(executor, [trial(0)])
    folder = executor._folder()
    assert checkpoint_step(folder, reports[0][-1]) == 9
    executor.close()
    assert not folder.exists()
