"""Errors are told apart by what a caller can do about them."""

import pytest
import torch

from metasearch.core.values import Failure
from metasearch.execution.failures import TrialStopped, attempt, failure_of


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "user_error"),
        (ValueError("out of memory is only a phrase here"), "user_error"),
    ],
)
def test_kind_of_an_error(error: Exception, kind: str) -> None:
    assert failure_of(error).kind == kind


def test_cause_decides_where_an_error_was_wrapped() -> None:
    def wrapped() -> None:
        try:
            _raise(MemoryError)
        except MemoryError as error:
            raise ValueError("could not build the batch") from error

    failure = attempt(wrapped)
    assert isinstance(failure, Failure)
    assert failure.kind == "out_of_memory"


def test_failure_names_the_error_and_keeps_its_traceback() -> None:
    def mistaken_function() -> None:
        raise KeyError("lr")

    failure = attempt(mistaken_function)
    assert isinstance(failure, Failure)
    assert failure.message == "KeyError: 'lr'"
    assert "mistaken_function" in failure.traceback


def test_attempt_returns_what_the_function_returns() -> None:
    assert attempt(int, "7") == 7


def test_exit_is_a_failure_but_interrupts_and_stops_pass() -> None:
    assert isinstance(attempt(exit, 3), Failure)
    for error in (KeyboardInterrupt, TrialStopped):
        with pytest.raises(error):
            attempt(_raise, error)


def _raise(error: type[BaseException]) -> None:
    raise error
