"""What became of a call that raised: the kinds of failure, told apart where the exception still is one."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from metasearch.core.values import Failure

__all__ = ["TrialStopped", "attempt", "failure_of"]

T = TypeVar("T")

_MEMORY_PHRASES = ("out of memory", "can't allocate memory", "not enough memory")


class TrialStopped(BaseException):
    """Raised by ``trial.report`` when the scheduler has stopped the run.

    It is no ``Exception``, so that ``except Exception`` in a training function does not swallow it.
    """


def failure_of(error: BaseException) -> Failure:
    """The failure that an exception stands for: ``out_of_memory`` or ``user_error``, with its traceback as text."""
    lines = str(error).strip().splitlines()
    return Failure(
        kind="out_of_memory" if _is_out_of_memory(error) else "user_error",
        message=f"{type(error).__name__}: {lines[0] if lines else '(no message)'}",
        traceback="".join(traceback.format_exception(error)),
    )


def attempt(function: Callable[..., T], *arguments: Any) -> T | Failure:
    """What the function returns, or the :class:`Failure` of what it raises (``SystemExit`` counts as an error, too).

    After running out of memory the device's cache is emptied, so that a smaller call can succeed.
    """
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- user code may raise anything; it is handed on
        failure = failure_of(error)
    if failure.kind == "out_of_memory":
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return failure


def _is_out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _MEMORY_PHRASES):
            return True
        error = error.__cause__
    return False
