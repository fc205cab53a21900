"""Memory of a worker: what an evaluation has freed is kept for the next one.

Evaluations of L allocate and free the same large tensors over and over. The C library of Linux asks the system for each
of them and gives it back at once, and the system clears every page that it hands out: on tensors of some 10 MB up to
half of a worker's time (``experiments/benchmarks``). A worker therefore stays at its peak size until it ends.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Parameters of ``mallopt`` (glibc's malloc.h)."""


def keep_freed_memory() -> bool:
    """Makes this process reuse its memory instead of returning it; cannot be undone in it.

    Returns:
        Whether the allocator could be told: True with glibc, False elsewhere, where nothing changes.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 1 << 26))
    taken = [mallopt(parameter, value) for parameter, value in settings]
    return all(taken)
