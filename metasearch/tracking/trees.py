"""Trees of state as JSON for the structure and plain tensors for the numbers, so that a checkpoint needs no pickle.

A tree is made of dicts, lists, tuples, tensors, numpy arrays and plain values (None, booleans, numbers, strings,
bytes). In the structure an object with a single key that starts with ``$`` stands for what JSON lacks:
``{"$tensor": "3"}`` is tensor number 3.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from metasearch.core.files import decode, encode

__all__ = ["pack", "tensors_from_bytes", "tensors_to_bytes", "unpack"]


def pack(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """A tree as (structure, tensors): the structure is plain JSON, the tensors are detached and on the CPU.

    Raises:
        TypeError: for anything else than the kinds of value above, naming its place in the tree.
    """
    tensors: dict[str, Tensor] = {}
    return _pack(tree, "state", tensors), tensors


def unpack(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that :func:`pack` took apart: equal bit for bit, tensors on the CPU without a gradient.

    Raises:
        KeyError: if a tensor that the structure names is not there.
    """
    if isinstance(structure, list):
        return [unpack(item, tensors) for item in structure]
    if isinstance(structure, dict):
        if len(structure) == 1 and (special := _SPECIAL.get(next(iter(structure)))):
            return special(next(iter(structure.values())), tensors)
        return {key: unpack(item, tensors) for key, item in structure.items()}
    return decode(structure)


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors in the safetensors format; tensors that share memory are written one by one."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        pointer = value.untyped_storage().data_ptr()
        separate[name] = value.clone() if pointer in seen else value
        seen.add(pointer)
    return bytes(dump_tensors(separate))


def tensors_from_bytes(content: bytes) -> dict[str, Tensor]:
    """The tensors that :func:`tensors_to_bytes` wrote, on the CPU."""
    return dict(load_tensors(content))


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return {"$tensor": _store(value, tensors)}
    if isinstance(value, np.ndarray):
        return {"$numpy": _store(_from_numpy(value, place), tensors)}
    if isinstance(value, Mapping):
        return _pack_mapping(value, place, tensors)
    if type(value) is list:
        return [_pack(item, f"{place}[{index}]", tensors) for index, item in enumerate(value)]
    if type(value) is tuple:
        return {"$tuple": [_pack(item, f"{place}[{index}]", tensors) for index, item in enumerate(value)]}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if value is None or isinstance(value, bool | int | float | str | np.generic):
        return encode(value)
    raise TypeError(
        f"{place} cannot be written to a checkpoint: expected dicts, lists, tuples, tensors, numpy arrays or plain "
        f"values, got {type(value).__name__}"
    )


def _pack_mapping(value: Mapping[Any, Any], place: str, tensors: dict[str, Tensor]) -> Any:
    """String keys stay an object; other keys (an optimizer's state has integers) become a list of pairs."""
    if all(type(key) is str and not key.startswith("$") for key in value):
        return {key: _pack(item, f"{place}.{key}", tensors) for key, item in value.items()}
    return {
        "$items": [
            [_pack(key, f"{place} key", tensors), _pack(item, f"{place}.{key}", tensors)] for key, item in value.items()
        ]
    }


def _store(tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    name = str(len(tensors))
    tensors[name] = tensor.detach().cpu()
    return name


def _from_numpy(value: np.ndarray[Any, Any], place: str) -> Tensor:
    if value.dtype.kind not in "biufc":
        raise TypeError(
            f"{place} cannot be written to a checkpoint: expected an array of numbers, got one of {value.dtype}"
        )
    array = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(array)


def _dict(pairs: list[Any], tensors: Mapping[str, Tensor]) -> dict[Any, Any]:
    return {unpack(key, tensors): unpack(item, tensors) for key, item in pairs}


_SPECIAL: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "$tensor": lambda name, tensors: tensors[name],
    "$numpy": lambda name, tensors: tensors[name].numpy(),
    "$tuple": lambda items, tensors: tuple(unpack(item, tensors) for item in items),
    "$items": _dict,
    "$bytes": lambda text, tensors: base64.b64decode(text),
}
