"""Checkpoints of a run: ``checkpoints/<step, 8 digits>/`` with ``state.json`` and ``tensors.safetensors``.

A checkpoint appears by a rename of a flushed folder, so one that can be seen is whole. Kept are the newest two (the
newer might turn out damaged), the best by validation, and those whose ordinal number is a power of two: log-spaced
starting points from which any evaluation can be repeated.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metasearch.core.errors import ResumeError
from metasearch.core.files import folder_in_place, temporary_name, write_file

__all__ = ["Checkpoints", "load_checkpoint"]

FORMAT = 1
_NEWEST = 2
_META, _STATE, _TENSORS, _BEST = "meta.json", "state.json", "tensors.safetensors", "best.json"


class Checkpoints:
    """The checkpoints of one run; only the process that drives the run may save."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, tree: Any, *, best: bool = False) -> Path:
        """Writes the checkpoint of a step (replacing one of the same step) and deletes those no longer kept.

        Args:
            step: outer step after which this is the state.
            tree: dicts, lists, tuples, tensors, numpy arrays and plain values, nested.
            best: whether this is the best by validation so far.

        Raises:
            TypeError: if the tree holds something else, naming the place.
        """
        from metasearch.tracking.trees import pack, tensors_to_bytes  # imports torch, which listing runs does not need

        self._sweep()
        structure, tensors = pack(tree)
        state, numbers = _to_bytes(structure), tensors_to_bytes(tensors)
        meta = {
            "format": FORMAT,
            "step": step,
            "ordinal": self._ordinal(step),
            "state": _digest(state),
            "tensors": _digest(numbers),
        }
        target = self.path(step)
        with folder_in_place(target, fault="checkpoint.rename") as folder:
            (folder / _STATE).write_bytes(state)
            (folder / _TENSORS).write_bytes(numbers)
            (folder / _META).write_bytes(_to_bytes(meta))
        if best:
            self.mark_best(step)
        self._prune()
        return target

    def mark_best(self, step: int) -> None:
        """Keeps this step's checkpoint until a better one is marked.

        Raises:
            ValueError: if there is no checkpoint of this step.
        """
        if step not in self.steps():
            raise ValueError(
                f"cannot mark step {step} as the best: checkpoints exist for {self.steps()}; save one first"
            )
        write_file(self.folder / _BEST, _to_bytes({"step": step}))

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        if not self.folder.is_dir():
            return []
        return sorted(int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal())

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.folder / f"{step:08d}"

    def latest(self, max_step: int | None = None) -> Path | None:
        """The newest checkpoint, or the newest that is not past ``max_step``; None if there is none."""
        steps = [step for step in self.steps() if max_step is None or step <= max_step]
        return self.path(steps[-1]) if steps else None

    def best(self) -> Path | None:
        """The checkpoint marked as the best by validation, if there is one."""
        marked = self.folder / _BEST
        if not marked.exists():
            return None
        path = self.path(int(json.loads(marked.read_bytes())["step"]))
        return path if path.is_dir() else None

    def _ordinal(self, step: int) -> int:
        """1 for a run's first checkpoint, and so on; a step that is saved again keeps its number."""
        ordinals = self._ordinals()
        return ordinals.get(step) or max(ordinals.values(), default=0) + 1

    def _ordinals(self) -> dict[int, int]:
        return {step: int(_meta(self.path(step))["ordinal"]) for step in self.steps()}

    def _prune(self) -> None:
        ordinals = self._ordinals()
        best = self.best()
        for step in sorted(ordinals)[:-_NEWEST]:
            path = self.path(step)
            if path != best and ordinals[step].bit_count() != 1:
                # Renamed first: a checkpoint that is half deleted must not be found.
                doomed = temporary_name(path)
                path.rename(doomed)
                shutil.rmtree(doomed)

    def _sweep(self) -> None:
        """Removes what interrupted writes left."""
        if self.folder.is_dir():
            for entry in self.folder.glob(".tmp-*"):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def load_checkpoint(path: Path | str) -> Any:
    """The tree that was saved; tensors are on the CPU, without a gradient.

    Raises:
        ResumeError: if the checkpoint is missing, damaged, or of a newer format.
    """
    from metasearch.tracking.trees import tensors_from_bytes, unpack

    path = Path(path)
    meta = _meta(path)
    if meta["format"] > FORMAT:
        raise ResumeError(
            f"{path} has checkpoint format {meta['format']}, this metasearch reads up to {FORMAT}; upgrade metasearch"
        )
    contents = {}
    for name, key in ((_STATE, "state"), (_TENSORS, "tensors")):
        contents[key] = _content(path / name)
        if _digest(contents[key]) != meta[key]:
            raise _damaged(path, f"the checksum of {name} does not match")
    return unpack(json.loads(contents["state"]), tensors_from_bytes(contents["tensors"]))


def _meta(path: Path) -> Mapping[str, Any]:
    try:
        meta = json.loads(_content(path / _META))
        return {key: meta[key] for key in ("format", "step", "ordinal", "state", "tensors")}
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"{_META} cannot be read: {error!r}") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _damaged(path.parent, f"{path.name} cannot be read: {error.strerror}") from error


def _damaged(path: Path, what: str) -> ResumeError:
    return ResumeError(f"checkpoint {path} is not usable: {what}; delete this folder to go on from the one before it")


def _to_bytes(value: Any) -> bytes:
    """JSON of what is encoded already."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
