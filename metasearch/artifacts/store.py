"""Saving and loading phi: a folder with ``manifest.json`` and ``phi.safetensors``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from metasearch.artifacts.manifest import FORMAT, Manifest, TensorInfo
from metasearch.core.errors import ArtifactError
from metasearch.core.files import decode, folder_in_place, to_json
from metasearch.core.values import Phi, Tensors, fingerprint

__all__ = ["StoredPhi", "check_fits", "load", "save"]

_MANIFEST, _TENSORS = "manifest.json", "phi.safetensors"
_TENSOR_PREFIX, _BUFFER_PREFIX = "tensors/", "buffers/"


@dataclass(frozen=True)
class StoredPhi:
    """phi as it was saved, and what is known about it."""

    phi: Phi
    manifest: Manifest


def save(folder: Path | str, phi: Phi, manifest: Manifest) -> Manifest:
    """Writes phi to a folder, replacing what was there only when the new one is on disk.

    Args:
        folder: where to; its parents are made.
        phi: any device; stored as it is, bit for bit.
        manifest: its ``choices``, ``tensors``, ``buffers``, ``hash`` and ``format`` are filled in here.

    Returns:
        The manifest as written.

    Raises:
        ArtifactError: if a choice or a setting is no plain value, or the folder is something other than a stored phi.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / _MANIFEST).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(
            f"{folder} exists and holds no {_MANIFEST}; give an empty or new folder, so that nothing else is lost"
        )
    stored = _flatten(phi)
    complete = manifest.model_copy(
        update={
            "format": FORMAT,
            "choices": dict(phi.choices),
            "tensors": _describe(phi.tensors),
            "buffers": _describe(phi.buffers),
            "hash": fingerprint(stored),
        }
    )
    try:
        text = to_json(complete.model_dump(), indent=2)
    except TypeError as error:
        raise ArtifactError(
            f"the manifest cannot be written: {error}; give numbers, strings, lists and mappings only"
        ) from error
    with folder_in_place(folder) as temporary:
        (temporary / _TENSORS).write_bytes(dump_tensors(stored))
        (temporary / _MANIFEST).write_text(text + "\n", encoding="utf-8")
    return complete


def load(folder: Path | str, device: torch.device | str = "cpu") -> StoredPhi:
    """Reads a stored phi and checks that it is what its manifest says. Imports no code that the manifest names.

    Raises:
        ArtifactError: if files are missing or damaged, a tensor is missing or has another shape or dtype than the
            manifest says, the hash differs, or the format is newer than this metasearch.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    stored = read_tensors(folder / _TENSORS)
    expected = {_TENSOR_PREFIX + name: info for name, info in manifest.tensors.items()}
    expected |= {_BUFFER_PREFIX + name: info for name, info in manifest.buffers.items()}
    _compare(
        f"{folder / _TENSORS} against its manifest", expected, _describe(stored), "restore both files from one copy"
    )
    if (actual := fingerprint(stored)) != manifest.hash:
        raise ArtifactError(
            f"{folder}: the hash of the tensors is {actual}, the manifest says {manifest.hash}; "
            f"restore both files from one copy"
        )
    phi = Phi(_with_prefix(stored, _TENSOR_PREFIX), _with_prefix(stored, _BUFFER_PREFIX), dict(manifest.choices))
    return StoredPhi(phi.to(device), manifest)


def check_fits(phi: Phi, template: Phi) -> None:
    """Whether a phi has the tensors and buffers of a template (a learner's ``init``): same names, same shapes.

    Raises:
        ArtifactError: naming what is missing, what is too much, or both shapes.
    """
    hint = "load it into the learner of its own manifest, or change the configuration to match"
    for kind, ours, theirs in (("tensors", phi.tensors, template.tensors), ("buffers", phi.buffers, template.buffers)):
        expected = {name: TensorInfo(shape=tuple(tensor.shape), dtype="") for name, tensor in theirs.items()}
        actual = {name: TensorInfo(shape=tuple(tensor.shape), dtype="") for name, tensor in ours.items()}
        _compare(f"phi's {kind} against the learner's", expected, actual, hint)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / _MANIFEST
    try:
        content = decode(json.loads(path.read_bytes()))
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read ({error.strerror}); expected a folder with {_MANIFEST} and {_TENSORS}"
        ) from error
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged: it is not JSON ({error}); restore it from a copy") from error
    version = content.get("format") if isinstance(content, dict) else None
    if not isinstance(version, int) or version < 1:
        raise ArtifactError(
            f"{path} has no valid format number: got {version!r}, expected 1 to {FORMAT}; it is not a phi of metasearch"
        )
    if version > FORMAT:
        written_by = content.get("provenance", {}).get("versions", {}).get("metasearch", "a later one")
        raise ArtifactError(
            f"{path} has format {version}, this metasearch reads up to {FORMAT}; "
            f"it was written by metasearch {written_by}: upgrade with 'pip install --upgrade metasearch'"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"{path} is damaged at {where}: {first['msg']} (got {first['input']!r}); restore it from a copy"
        ) from error


def read_tensors(path: Path) -> Tensors:
    """The tensors of a file in the safetensors format.

    Raises:
        ArtifactError: if it cannot be read or is damaged.
    """
    try:
        return dict(parse_tensors(path.read_bytes()))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); restore it from a copy") from error
    except SafetensorError as error:
        raise ArtifactError(
            f"{path} is damaged: expected tensors in the safetensors format ({error}); restore it from a copy"
        ) from error


def _compare(what: str, expected: Mapping[str, TensorInfo], actual: Mapping[str, TensorInfo], hint: str) -> None:
    missing, surplus = sorted(expected.keys() - actual.keys()), sorted(actual.keys() - expected.keys())
    if missing or surplus:
        raise ArtifactError(f"{what}: missing {missing or 'none'}, unexpected {surplus or 'none'}; {hint}")
    for name, info in expected.items():
        if actual[name].shape != info.shape:
            raise ArtifactError(
                f"{what}: {name} should have shape {list(info.shape)}, got {list(actual[name].shape)}; {hint}"
            )
        if actual[name].dtype != info.dtype:
            raise ArtifactError(f"{what}: {name} should be {info.dtype}, got {actual[name].dtype}; {hint}")


def _flatten(phi: Phi) -> Tensors:
    """Tensors and buffers under one set of names, each in memory of its own, which the format demands."""
    named = {_TENSOR_PREFIX + name: tensor for name, tensor in phi.tensors.items()}
    named |= {_BUFFER_PREFIX + name: tensor for name, tensor in phi.buffers.items()}
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in named.items()}


def _describe(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        name: TensorInfo(shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
        for name, tensor in tensors.items()
    }


def _with_prefix(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
