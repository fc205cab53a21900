"""metasearch: search over how a network learns.

Everything about training that people set by hand is a learnable component, together phi; an inner loop F_phi trains
theta on a task's support set, and a searcher lowers the loss on its query set, L(phi).

The names below are loaded when they are first used; ``import metasearch`` itself imports neither torch nor Ray nor
MLflow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metasearch.api import check, evaluate, extend, load, load_fitted, replay, report, resume, run, search
    from metasearch.artifacts.shipped import optimizers
    from metasearch.core.errors import MetasearchError
    from metasearch.core.registry import register
    from metasearch.core.seeds import Draws
    from metasearch.core.space import Choice, Float, Int, Space
    from metasearch.core.values import Batch, Losses, Phi, Task, TaskSpec
    from metasearch.takeaway.optimizer import LearnedOptimizer
    from metasearch.tasks.base import FewShot
    from metasearch.tuning import TuneSearcher

__version__ = "0.1.0"

_PLACES = {
    "api": ("check", "evaluate", "extend", "load", "load_fitted", "replay", "report", "resume", "run", "search"),
    "core.errors": ("MetasearchError",),
    "core.registry": ("register",),
    "core.seeds": ("Draws",),
    "core.space": ("Choice", "Float", "Int", "Space"),
    "core.values": ("Batch", "Losses", "Phi", "Task", "TaskSpec"),
    "takeaway.optimizer": ("LearnedOptimizer",),
    "artifacts.shipped": ("optimizers",),
    "tasks.base": ("FewShot",),
    "tuning": ("TuneSearcher",),
}
_HOME = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "Batch",
    "Choice",
    "Draws",
    "FewShot",
    "Float",
    "Int",
    "LearnedOptimizer",
    "Losses",
    "MetasearchError",
    "Phi",
    "Space",
    "Task",
    "TaskSpec",
    "TuneSearcher",
    "check",
    "evaluate",
    "extend",
    "load",
    "load_fitted",
    "optimizers",
    "register",
    "replay",
    "report",
    "resume",
    "run",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"metasearch.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
