"""Writes a phi somewhere else: as a folder, its initialization (or embedding) as a state dict, its policy as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from safetensors.torch import save as dump_tensors

from metasearch.artifacts import StoredPhi, save
from metasearch.core.errors import ArtifactError
from metasearch.core.files import write_file
from metasearch.core.values import Tensors
from metasearch.takeaway.augmentation import policy_of

__all__ = ["export"]


def export(stored: StoredPhi, path: str | Path, *, allow_user_code: bool = False) -> Path:
    """Writes a phi; the ending of the path says how.

    Args:
        stored: phi and its manifest.
        path: ``*.pt`` and ``*.safetensors`` get the learned initialization as a state dict (without what every task
            starts at zero, which was not learned), or a metric learner's embedding; ``*.json`` gets a learned
            augmentation policy; any other name becomes a folder with all of phi, as a search leaves it.
        allow_user_code: whether modules that the manifest names may be imported, which a policy beside a user's own
            network needs.

    Returns:
        The path.

    Raises:
        ArtifactError: if a state dict or a policy is asked for and none was learned, or a folder of something else is
            in the way.
    """
    path = Path(path)
    if path.suffix == ".json":
        policy = policy_of(stored.manifest, stored.phi, allow_user_code=allow_user_code)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, policy.to_json().encode())
        return path
    if path.suffix not in (".pt", ".safetensors"):
        save(path, stored.phi, stored.manifest)
        return path
    slot = "initialization" if stored.phi.part("initialization") else "embedding"
    values = stored.phi.part(slot) | stored.phi.buffers_of(slot)
    if not values:
        raise ArtifactError(
            f"this phi has no learned initialization to write to {path.name}; a folder (a name without ending) keeps "
            "all of it"
        )
    state: Tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in values.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        notes = {
            "run": stored.manifest.provenance.run,
            "hash": stored.manifest.hash,
            "model": json.dumps(stored.manifest.model),
        }
        write_file(
            path, dump_tensors(state, {"format": "pt", **{f"metasearch.{key}": value for key, value in notes.items()}})
        )
    else:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_file(path, buffer.getvalue())
    return path
