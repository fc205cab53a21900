"""Where calls run: in the process, on a pool of Ray actors, or as Ray Tune trials. Ray is imported nowhere else.

Importing this package does not import Ray; the names that need it are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from metasearch.execution.failures import TrialStopped
from metasearch.execution.gather import CallFailedError, gather
from metasearch.execution.inline import Inline

if TYPE_CHECKING:
    from metasearch.execution.actors import Actors
    from metasearch.execution.cluster import RaySession, assigned_device, start_ray
    from metasearch.execution.trials import Trials

__all__ = [
    "Actors",
    "CallFailedError",
    "Inline",
    "RaySession",
    "TrialStopped",
    "Trials",
    "assigned_device",
    "gather",
    "start_ray",
]

_LAZY = {
    "Actors": "actors",
    "Trials": "trials",
    "RaySession": "cluster",
    "assigned_device": "cluster",
    "start_ray": "cluster",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
