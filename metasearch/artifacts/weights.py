"""Given weights as the start of a network in phi: read from a phi, a state dict or a safetensors file, and fitted."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metasearch.artifacts import shipped
from metasearch.artifacts.store import StoredPhi, load, read_tensors
from metasearch.core.errors import ArtifactError, ConfigError
from metasearch.core.space import substitute
from metasearch.core.values import Phi, Tensors

__all__ = ["Start", "read_weights", "rule_settings", "start_from", "stored"]

_NETWORKS = ("initialization", "embedding")
"""Parts of phi that are a whole network for the tasks; each can start from the other."""


@dataclass(frozen=True)
class Start:
    """What became of given weights.

    Args:
        slot: the part of phi that starts from them.
        source: where they came from.
        loaded: parameters and buffers that start from them.
        fresh: parameters of one layer that start from the network's own initializer, each with the reason.
        unused: what else the source holds.
    """

    slot: str
    source: str
    loaded: tuple[str, ...]
    fresh: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.slot} from {self.source}: loaded {len(self.loaded)}: {', '.join(self.loaded)}"]
        if self.fresh:
            lines.append("fresh: " + ", ".join(f"{name} ({why})" for name, why in self.fresh.items()))
        if self.unused:
            lines.append(f"not used: {', '.join(self.unused)}")
        return "; ".join(lines)


def read_weights(path: str | Path, slot: str = "initialization") -> Tensors:
    """Tensors by the network's own names.

    Args:
        path: the folder of a phi or of a run, of which what ``slot`` holds is taken, or, for want of a network there,
            the other one of ``initialization`` and ``embedding`` (what else belongs to a metric or self-supervised
            learner or a reader, such as the head of a pretext task, is left behind); or a file: ``*.safetensors``, or
            what ``torch.save`` made of a state dict (or of a mapping that has one under ``state_dict``). For an update
            rule also the name of one that comes with the package.
        slot: the part of phi that the weights are for.

    Raises:
        ArtifactError: if there is nothing, it is damaged, or holds something else.
    """
    found = stored(path, slot)
    if found is not None:
        phi = found.phi
        slots = sorted(_NETWORKS, key=lambda one: one != slot) if slot in _NETWORKS else [slot]
        parts = ({**phi.part(one), **phi.buffers_of(one)} for one in slots)
        return next((part for part in parts if part), {})
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read ({error.strerror}); expected the folder of a phi, *.safetensors or a state dict"
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ArtifactError(
            f"{path} is no state dict that can be read without running code ({reason}); save one with "
            "torch.save(model.state_dict(), path)"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ArtifactError(f"{path} holds no state dict (tensors by name); got {type(state).__name__}")
    return {str(name): value for name, value in state.items()}


def rule_settings(found: StoredPhi) -> dict[str, Any] | None:
    """The update rule of a stored phi as it was chosen, ``type`` and settings; None if its manifest tells none.

    Raises:
        ArtifactError: if something was left to choose, and phi does not say what was.
    """
    learner = found.manifest.config.get("learner")
    slots = learner.get("slots") if isinstance(learner, Mapping) else None
    block = slots.get("update_rule") if isinstance(slots, Mapping) else None
    if not isinstance(block, Mapping):
        return None
    try:
        plain = substitute({"learner": {"slots": {"update_rule": dict(block)}}}, found.phi.choices)
    except ConfigError as error:
        raise ArtifactError(f"the phi does not say what was chosen for its update rule: {error}") from error
    settings = plain["learner"]["slots"]["update_rule"]
    return {name: value for name, value in settings.items() if name not in ("from", "searcher", "chosen")}


def stored(path: str | Path, slot: str) -> StoredPhi | None:
    """What lies in the folder of a phi or of a run, or belongs to a rule that comes with the package; None where there
    is no folder.

    Raises:
        ArtifactError: if the phi is damaged, or there is none in the folder.
    """
    folder = shipped.folder(str(path)) if slot == "update_rule" and str(path) in shipped.names() else Path(path)
    if not folder.is_dir():
        return None
    return load(folder / "phi" if (folder / "phi" / "manifest.json").exists() else folder)


def start_from(path: str | Path, phi: Phi, slot: str = "initialization") -> tuple[Phi, Start]:
    """A phi of which one part starts from given weights.

    All parameters of a network must be there with their shapes. One layer may be missing, or have another
    number of outputs (its first dimension), and then stays as it is: the head of a network that was trained on
    something else. Moving averages that are not there stay as they are, too. All of an update rule must be there.

    Args:
        path: see :func:`read_weights`.
        phi: a fresh one of the learner that is to start.
        slot: the part of phi, ``initialization``, ``embedding`` or ``update_rule``.

    Raises:
        ArtifactError: if the source cannot be read, or does not fit: naming what is missing, and both shapes of what
            differs.
    """
    given = read_weights(path, slot)
    wanted = {**phi.part(slot), **phi.buffers_of(slot)}
    if not wanted:
        other = {
            "initialization": "initialization: {type: tensors} does",
            "embedding": "metric learners and readers do; an inner loop says slots: {initialization: {from: ...}}",
            "update_rule": "lstm, mlp and others do, hand-made rules without learned constants do not",
        }
        raise ArtifactError(f"nothing can start from {path}: this learner learns no {slot} ({other[slot]})")
    missing = [name for name in wanted if name not in given]
    differing = [name for name in wanted if name in given and given[name].shape != wanted[name].shape]
    shapes = [f"{name} (there {list(given[name].shape)}, here {list(wanted[name].shape)})" for name in differing]
    outputs_only = all(
        given[name].dim() == wanted[name].dim() and given[name].shape[1:] == wanted[name].shape[1:]
        for name in differing
    )
    layers = {name.rpartition(".")[0] for name in (*missing, *differing) if name in phi.part(slot)}
    network, unlike = slot in _NETWORKS, len(missing) + len(differing)
    surplus = () if network else tuple(name for name in given if name not in wanted)
    if len(layers) > 1 or not outputs_only or unlike == len(wanted) or (unlike and not network) or surplus:
        raise ArtifactError(
            f"the weights in {path} are those of another {'network' if network else slot}: missing "
            f"{', '.join(missing) or 'none'}; of another shape {', '.join(shapes) or 'none'}; it has "
            f"{', '.join(given) or 'nothing'}. "
            + ("Only one layer may be missing or have another number of outputs" if network else "All must fit")
        )
    why = dict.fromkeys(missing, "not there")
    why |= {name: f"there {list(given[name].shape)}, here {list(wanted[name].shape)}" for name in differing}
    loaded, prefix = tuple(name for name in wanted if name not in why), f"{slot}."

    def replaced(own: Tensors) -> Tensors:
        return {
            name: given[name.removeprefix(prefix)].to(value.device, value.dtype)
            if name.startswith(prefix) and name.removeprefix(prefix) in loaded
            else value
            for name, value in own.items()
        }

    start = Start(slot, str(path), loaded, why, tuple(name for name in given if name not in wanted))
    return phi.replace(tensors=replaced(phi.tensors), buffers=replaced(phi.buffers)), start
