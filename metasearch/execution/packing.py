"""How values travel: tensors as plain numpy memory, everything else pickled; what arrives is fresh and writable.

Ray is fastest with plain bytes, shares numpy memory only read-only and copies torch tensors slowly. So a value becomes
one string of bytes: a pickle, then the memory of its larger arrays. The receiver copies that memory once: a write in
place then touches nobody else. The in-process executor takes the same way, so a program sees equal memory layouts
wherever it runs.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasearch.core.values import Call

__all__ = ["Shared", "pack", "resolved", "unpack"]

_IN_BAND_BYTES = 1024
_ALIGNMENT = 64
_CARRIERS = {1: torch.uint8, 2: torch.int16}  # for dtypes that numpy lacks (bfloat16, float8), by element size


@dataclass(frozen=True, eq=False)
class Shared:
    """What :meth:`Executor.put` returns: a packed value, or Ray's reference to one."""

    content: Any


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no annotations
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            return _tensor, _numpy(obj)
        return super().reducer_override(obj)


def pack(value: Any) -> bytes:
    """A snapshot of any picklable tree; tensors lose their graph, ``requires_grad`` and device."""
    buffers: list[memoryview] = []

    def take(buffer: pickle.PickleBuffer) -> bool:
        memory = buffer.raw()
        if memory.nbytes < _IN_BAND_BYTES:
            return True
        buffers.append(memory)
        return False

    stream = io.BytesIO()
    _Pickler(stream, protocol=5, buffer_callback=take).dump(value)
    sizes = [buffer.nbytes for buffer in buffers]
    parts: list[bytes | memoryview] = [
        struct.pack(f"<QQ{len(sizes)}Q", stream.tell(), len(sizes), *sizes),
        stream.getbuffer(),
        *buffers,
    ]
    return b"".join(piece for part in parts for piece in (part, bytes(-len(part) % _ALIGNMENT)))


def unpack(packed: bytes) -> Any:
    """The value again; its tensors and arrays are fresh, writable and lie on the CPU."""
    length, count = struct.unpack_from("<QQ", packed)
    sizes = struct.unpack_from(f"<{count}Q", packed, 16)
    start = _padded(16 + 8 * count)
    view = memoryview(packed)
    if not count:
        return pickle.loads(view[start : start + length])  # noqa: S301 -- packed by a process of this run
    memory = _fresh(view[start + _padded(length) :])
    return pickle.loads(view[start : start + length], buffers=_places(memory, sizes))  # noqa: S301


def resolved(call: Call) -> Call:
    """The call with fresh values in place of in-process references."""
    phi, carried = (unpack(v.content) if isinstance(v, Shared) else v for v in (call.phi, call.carried))
    return replace(call, phi=phi, carried=carried)


def _fresh(view: memoryview) -> NDArray[np.uint8]:
    """A copy in torch's memory, for its alignment: kernels that depend on it then repeat their results."""
    memory: NDArray[np.uint8] = torch.empty(view.nbytes, dtype=torch.uint8).numpy()
    memory[:] = np.frombuffer(view, np.uint8)
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
