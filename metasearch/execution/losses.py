"""What the loss of a Ray worker means for a call."""

from __future__ import annotations

from ray.exceptions import OutOfMemoryError

from metasearch.core.values import Failure, FailureKind

__all__ = ["lost_failure"]


def lost_failure(error: BaseException | None, story: str) -> Failure:
    """The failure of a call whose worker was lost for good: ``out_of_memory`` of the host, ``preempted`` or ``lost``.

    Args:
        error: what Ray said the last time.
        story: how often, and at what.
    """
    kind: FailureKind = "lost"
    if isinstance(error, OutOfMemoryError):
        kind = "out_of_memory"
    elif getattr(error, "preempted", False):
        kind = "preempted"
    text = str(error).strip()
    return Failure(kind, f"{story}, the last time with {type(error).__name__}: {text.partition(chr(10))[0]}", text)
