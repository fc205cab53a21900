"""What stands beside phi's tensors: what they are, how they were found, and what is needed to use them."""

from __future__ import annotations

import importlib.metadata
import platform
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from metasearch.core.seeds import ALGORITHM

__all__ = ["FORMAT", "Manifest", "Provenance", "TensorInfo", "current_versions"]

FORMAT = 1
"""Version of the format that :func:`metasearch.artifacts.save` writes; every version up to it can be loaded."""


def current_versions() -> dict[str, str]:
    """Versions of what phi's numbers depend on; a package that is not installed is ``unknown``."""
    return {"python": platform.python_version(), **{name: _version(name) for name in ("metasearch", "torch", "numpy")}}


class _Part(BaseModel):
    # A key that a later release adds to the same format says something more; it does not change what is known.
    model_config = ConfigDict(extra="ignore", frozen=True)


class TensorInfo(_Part):
    """Shape and dtype (torch's name without ``torch.``) of one tensor."""

    shape: tuple[int, ...]
    dtype: str


class Provenance(_Part):
    """Where a phi comes from.

    Args:
        run: id of the search.
        evaluations: evaluations of L that the search had made.
        selected_step: outer step whose phi this is.
        seeds: seeds by purpose (``search``, ``data`` ...).
        seed_algorithm: the scheme that turns them into draws.
        versions: what it was computed with.
        split: the data split it was searched and selected on, as the task distribution describes it.
        date: when it was written, ISO 8601 in UTC.
        validation: figures it was selected by (``L``, ``accuracy``, ``accuracy_ci95`` ...).
    """

    run: str
    evaluations: int
    selected_step: int
    seeds: dict[str, int] = Field(default_factory=dict)
    seed_algorithm: str = ALGORITHM
    versions: dict[str, str] = Field(default_factory=current_versions)
    split: dict[str, Any] = Field(default_factory=dict)
    date: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    validation: dict[str, float] = Field(default_factory=dict)


class Manifest(_Part):
    """manifest.json.

    Args:
        format: version of the format.
        components: type of what fills each slot, by slot name.
        model: the network's type and settings.
        config: the resolved experiment, as plain values; enough to build the learner again.
        provenance: where phi comes from.
        spec: shapes of the tasks it was learned on (``kind``, ``input_shape``, ``outputs``, ``support``, ``query``).
        schedule: choices over the course of a training run, where a population found some: pieces, each with ``from``
            (units of budget already done) and ``choices``, in order.
        choices: phi's choices, by dotted path; filled in when phi is saved, as are the next three.
        tensors: shape and dtype of phi's tensors.
        buffers: shape and dtype of phi's buffers.
        hash: fingerprint of tensors and buffers.
    """

    format: int = FORMAT
    components: dict[str, str]
    model: dict[str, Any]
    config: dict[str, Any]
    provenance: Provenance
    spec: dict[str, Any] = Field(default_factory=dict)
    schedule: list[dict[str, Any]] = Field(default_factory=list)
    choices: dict[str, Any] = Field(default_factory=dict)
    tensors: dict[str, TensorInfo] = Field(default_factory=dict)
    buffers: dict[str, TensorInfo] = Field(default_factory=dict)
    hash: str = ""


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
