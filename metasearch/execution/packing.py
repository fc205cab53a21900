"""How values travel: tensors as plain numpy memory, everything else pickled; what arrives is fresh and writable.

Ray shares numpy memory without a copy but read-only, and copies torch tensors slowly. So tensors are taken out as numpy
buffers at the sender and copied once at the receiver, where an in-place write then touches nobody else. The in-process
executor takes the same way: a program sees equal memory layouts wherever it runs.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Iterator
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
_ALIGNMENT = 64
_CARRIERS = {1: torch.uint8, 2: torch.int16}  # for dtypes that numpy lacks (bfloat16, float8), by element size


@dataclass(frozen=True, eq=False, repr=False)
class Packed:
    """A value as a pickle and, in one piece, the memory of its larger arrays; immutable, hence its own deep copy.

    Args:
        body: the pickle.
        sizes: of the arrays' memories, in bytes; each begins at a multiple of 64.
        memory: of all arrays.
    """

    body: bytes
    sizes: tuple[int, ...]
    memory: NDArray[np.uint8]

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


def pack(value: Any) -> Packed:
    """A snapshot of any picklable tree; tensors lose their graph, ``requires_grad`` and device."""
    buffers: list[NDArray[np.uint8]] = []

    def take(buffer: pickle.PickleBuffer) -> bool:
        memory = np.frombuffer(buffer.raw(), np.uint8) if buffer.raw().nbytes else np.zeros(0, np.uint8)
        if memory.nbytes < _IN_BAND_BYTES:
            return True
        buffers.append(memory)
        return False

    stream = io.BytesIO()
    _Pickler(stream, protocol=5, buffer_callback=take).dump(value)
    sizes = tuple(buffer.nbytes for buffer in buffers)
    memory = _empty(sum(map(_padded, sizes)))
    for place, buffer in zip(_places(memory, sizes), buffers, strict=True):
        place[:] = buffer
    return Packed(stream.getvalue(), sizes, memory)


def unpack(packed: Packed) -> Any:
    """The value again; its tensors and arrays are fresh, writable and lie on the CPU."""
    memory = _empty(packed.memory.nbytes)
    memory[:] = packed.memory
    return pickle.loads(packed.body, buffers=_places(memory, packed.sizes))  # noqa: S301 -- packed by this run


def resolved(call: Call) -> Call:
    """The call with fresh values in place of in-process references."""
    phi, carried = (unpack(v.content) if isinstance(v, Shared) else v for v in (call.phi, call.carried))
    return replace(call, phi=phi, carried=carried)


def _empty(size: int) -> NDArray[np.uint8]:
    """Torch's memory, for its alignment: kernels that depend on it then repeat their results."""
    memory: NDArray[np.uint8] = torch.empty(size, dtype=torch.uint8).numpy()
    return memory


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _places(memory: NDArray[np.uint8], sizes: Iterable[int]) -> Iterator[NDArray[np.uint8]]:
    """The parts of one memory, each aligned as the whole is."""
    start = 0
    for size in sizes:
        yield memory[start : start + size]
        start += _padded(size)


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
