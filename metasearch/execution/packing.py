"""How values travel: tensors as plain numpy memory, everything else pickled; what arrives is fresh and writable.

Ray shares numpy memory without a copy but read-only, and copies torch tensors slowly. So tensors are taken out as numpy
buffers at the sender and copied once at the receiver, where an in-place write then touches nobody else. The in-process
executor takes the same way: a program sees equal memory layouts wherever it runs.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasearch.core.values import Call

__all__ = ["Packed", "Shared", "pack", "resolved", "unpack"]

_IN_BAND_BYTES = 1024
_CARRIERS = {1: torch.uint8, 2: torch.int16}  # for dtypes that numpy lacks (bfloat16, float8), by element size


@dataclass(frozen=True, eq=False, repr=False)
class Packed:
    """A value as a pickle and the memory of its arrays; immutable, hence its own deep copy."""

    body: bytes
    buffers: tuple[NDArray[np.uint8], ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> Packed:
        return self


@dataclass(frozen=True, eq=False)
class Shared:
    """What :meth:`Executor.put` returns: a packed value, or Ray's reference to one."""

    content: Any


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no annotations
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            return _tensor, _numpy(obj)
        return super().reducer_override(obj)


def pack(value: Any, *, copy: bool = False) -> Packed:
    """Packs any picklable tree; tensors lose their graph, ``requires_grad`` and device.

    Args:
        value: the tree.
        copy: whether to take a snapshot; else the result shares the arrays' memory: send it off before they change.
    """
    buffers: list[NDArray[np.uint8]] = []

    def take(buffer: pickle.PickleBuffer) -> bool:
        with buffer.raw() as raw:
            if raw.nbytes < _IN_BAND_BYTES:
                return True
        array = np.frombuffer(buffer.raw(), np.uint8)
        buffers.append(array.copy() if copy else array)
        return False

    stream = io.BytesIO()
    _Pickler(stream, protocol=5, buffer_callback=take).dump(value)
    return Packed(stream.getvalue(), tuple(buffers))


def unpack(packed: Packed) -> Any:
    """The value again; its tensors and arrays are fresh, writable and lie on the CPU."""
    return pickle.loads(packed.body, buffers=_fresh(packed.buffers))  # noqa: S301 -- packed by a process of this run


def resolved(call: Call) -> Call:
    """The call with fresh values in place of in-process references."""
    phi, carried = (unpack(v.content) if isinstance(v, Shared) else v for v in (call.phi, call.carried))
    return replace(call, phi=phi, carried=carried)


def _fresh(buffers: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Copies in torch's memory, whose alignment (64 bytes) keeps kernels that depend on it repeatable."""
    copies = []
    for buffer in buffers:
        array: NDArray[np.uint8] = torch.empty(buffer.nbytes, dtype=torch.uint8).numpy()
        array[:] = buffer
        copies.append(array)
    return copies


def _numpy(tensor: Tensor) -> tuple[NDArray[Any], str | None]:
    """A tensor's memory, and its dtype if numpy does not have it."""
    tensor = tensor.detach().cpu().contiguous().resolve_conj().resolve_neg()
    try:
        return tensor.numpy(), None
    except TypeError:
        return tensor.view(_CARRIERS[tensor.element_size()]).numpy(), str(tensor.dtype).removeprefix("torch.")


def _tensor(array: NDArray[Any], dtype: str | None) -> Tensor:
    tensor = torch.from_numpy(array)
    if array.nbytes < _IN_BAND_BYTES:  # came inside the pickle, aligned to nothing
        tensor = tensor.clone()
    return tensor if dtype is None else tensor.view(getattr(torch, dtype))
