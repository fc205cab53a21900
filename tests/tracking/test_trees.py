import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from metasearch.tracking.trees import pack, tensors_from_bytes, tensors_to_bytes, unpack


class Point(NamedTuple):
    x: int


def round_trip(tree: Any) -> Any:
    structure, tensors = pack(tree)
    return unpack(structure, tensors_from_bytes(tensors_to_bytes(tensors)))


def test_tensors_of_every_kind_come_back_bit_for_bit() -> None:
    tree = [
        torch.randn(2, 3),
        torch.randn(4).to(torch.bfloat16),
        torch.tensor(math.nan, dtype=torch.float64),
        torch.arange(6).reshape(2, 3).T,
        torch.zeros(0, 3),
        torch.tensor([True, False]),
    ]
    for before, after in zip(tree, round_trip(tree), strict=True):
        assert after.dtype == before.dtype
        assert after.shape == before.shape
        assert torch.equal(
            after.nan_to_num() if after.is_floating_point() else after,
            before.nan_to_num() if before.is_floating_point() else before,
        )


def test_tensors_that_share_memory_are_kept_apart() -> None:
    weight = torch.arange(4.0)
    a, b, c = round_trip([weight, weight, weight[1:]])
    a += 1
    assert a.tolist() == [1, 2, 3, 4]
    assert b.tolist() == [0, 1, 2, 3]
    assert c.tolist() == [1, 2, 3]


def test_a_gradient_does_not_travel() -> None:
    weight = torch.ones(2, requires_grad=True)
    assert not round_trip({"w": weight * 2})["w"].requires_grad


def test_numpy_arrays_stay_numpy_arrays() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3)[:, ::-1]
    back = round_trip(array)
    assert isinstance(back, np.ndarray)
    assert back.dtype == np.int32
    assert back.tolist() == array.tolist()
    assert back.flags.writeable


def test_plain_values_and_containers_keep_their_types() -> None:
    tree = {
        "numbers": [1, 2**80, 0.1, math.inf, -0.0, True, None, np.float64(2.5)],
        "texts": ["nan", "$tensor", "\\inf", ""],
        "tuple": (1, (2, [3])),
        "bytes": b"\x00\xff",
        "empty": {"dict": {}, "list": [], "tuple": ()},
    }
    assert repr(round_trip(tree)) == repr({**tree, "numbers": [*tree["numbers"][:-1], 2.5]})


def test_keys_that_are_no_strings_and_keys_with_a_dollar_survive() -> None:
    tree = {0: {"exp_avg": torch.ones(1)}, (1, "a"): 2, None: 3}
    back = round_trip({"state": tree, "odd": {"$tensor": 1}})
    assert list(back["state"]) == [0, (1, "a"), None]
    assert back["state"][0]["exp_avg"].tolist() == [1]
    assert back["odd"] == {"$tensor": 1}


def test_the_state_of_an_optimizer_survives() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.square().sum().backward()
    optimizer.step()
    before = optimizer.state_dict()
    after = round_trip(before)
    assert after["param_groups"] == before["param_groups"]
    assert torch.equal(after["state"][0]["exp_avg_sq"], before["state"][0]["exp_avg_sq"])


@pytest.mark.parametrize("bad", [object(), {1}, Point(1), torch.float32, np.array(["text"])])
def test_other_types_are_refused_with_their_place(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"state\.a\[1\] cannot be written"):
        pack({"a": [0, bad]})
