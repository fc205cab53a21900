"""Named points at which a test can kill the process, so that recovery is proved where it matters.

With ``METASEARCH_FAULT=name:k`` in the environment the k-th passage of the point ``name`` (counted from 1, in this
process) ends the process by SIGKILL: no handler runs, nothing that the process holds is written. Without the variable a
point costs one look-up. Points of the package:

- ``journal.write``: half of a record is written;
- ``journal.after``: a record is written, nobody has been told;
- ``checkpoint.rename``: odd passages right before a checkpoint gets its name, even ones right after;
- ``mlflow.flush``: a part of what MLflow lacks has been sent (a search's rows, or a trial's run without its content).
"""

from __future__ import annotations

import os
import signal

from metasearch.core.errors import ConfigError

__all__ = ["VARIABLE", "fault_armed", "fault_point"]

VARIABLE = "METASEARCH_FAULT"
"""Name of the environment variable, whose value is ``point:passage``."""

_passages: dict[str, int] = {}


def fault_armed(name: str) -> bool:
    """Whether the environment asks for a fault at this point (for code that must prepare a half-done state first)."""
    value = os.environ.get(VARIABLE)
    return value is not None and value.partition(":")[0] == name


def fault_point(name: str) -> None:
    """Kills this process if this is the passage that the environment names; does nothing otherwise.

    Raises:
        ConfigError: if the variable names this point but holds no positive passage number.
    """
    if not fault_armed(name):
        return
    number = os.environ[VARIABLE].partition(":")[2]
    if not number.isdecimal() or int(number) < 1:
        raise ConfigError(VARIABLE, f"expected 'point:passage' with a passage from 1 on, got {os.environ[VARIABLE]!r}")
    _passages[name] = _passages.get(name, 0) + 1
    if _passages[name] == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
