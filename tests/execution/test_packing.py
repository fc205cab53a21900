"""Values arrive equal, fresh and writable."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from execution_programs import call
from hypothesis import given
from hypothesis import strategies as st

from metasearch.core.values import Phi, fingerprint
from metasearch.execution.packing import Shared, pack, resolved, unpack


@dataclass
class State:
    tensors: list[torch.Tensor]
    count: int


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (64, 65)])
def test_tensor_comes_back_bit_for_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3).to(dtype)
    back = unpack(pack(tensor))
    assert fingerprint({"t": back}) == fingerprint({"t": tensor})


def test_nested_values_keep_their_types() -> None:
    value = {
        "state": State([torch.ones(3), torch.zeros(2000)], 4),
        "phi": Phi({"a.b": torch.ones(1)}, choices={"lr": 0.1}),
    }
    back = unpack(pack(value))
    assert isinstance(back["state"], State)
    assert back["state"].count == 4
    assert torch.equal(back["state"].tensors[1], torch.zeros(2000))
    assert back["phi"].choices == {"lr": 0.1}


@pytest.mark.parametrize("size", [3, 5000])
def test_each_unpacking_is_fresh_memory(size: int) -> None:
    original = torch.ones(size)
    packed = pack({"t": original, "a": np.ones(size)})
    first = unpack(packed)
    first["t"].zero_()
    first["a"][:] = 0
    second = unpack(packed)
    assert torch.equal(original, torch.ones(size))
    assert torch.equal(second["t"], torch.ones(size))
    assert second["a"].sum() == size


@pytest.mark.parametrize("size", [3, 5000])
def test_snapshot_does_not_follow_later_writes(size: int) -> None:
    original = torch.ones(size)
    packed = pack(original)
    original.zero_()
    assert torch.equal(unpack(packed), torch.ones(size))


@pytest.mark.parametrize("size", [3, 5000])
def test_tensors_are_aligned_to_64_bytes(size: int) -> None:
    assert all(tensor.data_ptr() % 64 == 0 for tensor in unpack(pack([torch.ones(size) for _ in range(8)])))


def test_graph_and_strides_stay_behind() -> None:
    weight = torch.randn(4, 6, requires_grad=True)
    back = unpack(pack((weight * 2).T))
    assert not back.requires_grad
    assert back.is_contiguous()
    assert torch.equal(back, (weight * 2).T.detach())


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=400))
def test_any_floats_survive(values: list[float]) -> None:
    assert unpack(pack(torch.tensor(values))).tolist() == values


def test_resolved_replaces_references_by_fresh_values() -> None:
    shared = Shared(pack(torch.ones(4)))
    first = resolved(call(0, phi=shared))
    first.phi.zero_()
    assert torch.equal(resolved(call(0, phi=shared)).phi, torch.ones(4))
