"""The errors a caller of metasearch can meet: one small hierarchy, so that ``except MetasearchError`` is enough.

Every message says what was expected, what came and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DataError",
    "DivergedError",
    "ExecutionError",
    "JournalError",
    "MetasearchError",
    "ResumeError",
    "RunLockedError",
    "UnsupportedError",
    "nearest",
]


class MetasearchError(Exception):
    """Base of every error that metasearch raises on purpose."""


class ConfigError(MetasearchError, ValueError):
    """An experiment cannot be built as described.

    Args:
        path: dotted path of the offending key, for example ``tasks.ways``; empty when the whole file is meant.
        problem: what was expected, what came and what to do.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, str]]:
        return type(self), (self.path, self.problem)

    def under(self, prefix: str) -> ConfigError:
        """The same error seen from a level further out: ``ways`` under ``tasks`` is ``tasks.ways``."""
        return type(self)(".".join(part for part in (prefix, self.path) if part), self.problem)


class UnsupportedError(ConfigError):
    """Two parts that are each valid cannot work together (an estimator and a learner, a searcher and a space)."""


class DataError(MetasearchError):
    """A data set is missing, incomplete or not what its checksum says."""


class ArtifactError(MetasearchError):
    """A stored phi cannot be read, or does not fit what it is put into."""


class JournalError(MetasearchError):
    """The record of a run is damaged in a place where that cannot be the mark of an interrupted write."""


class ResumeError(MetasearchError):
    """A run cannot be continued so that it equals the undisturbed one."""


class RunLockedError(MetasearchError):
    """Another process is driving this run."""


class ExecutionError(MetasearchError):
    """A call failed in a way that repeating it does not repair."""


class DivergedError(MetasearchError):
    """The search was stopped because L(phi) stayed non-finite."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for a misspelt name: the closest valid one if there is one, and the list of all.

    >>> nearest("conv5", ["conv4", "mlp"])
    "did you mean 'conv4'? valid: conv4, mlp"
    """
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listing = "valid: " + (", ".join(names) if names else "none")
    return f"did you mean {close[0]!r}? {listing}" if close else listing
