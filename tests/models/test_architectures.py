from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.values import TaskSpec
from metasearch.models import build_model
from metasearch.models.architectures import CellNetwork, MacroNetwork, count
from metasearch.models.architectures.cells import EDGES, OPERATIONS, Cell
from metasearch.models.architectures.macro import BLOCKS
from metasearch.tasks import nas_tables

SPEC = TaskSpec("classification", (1, 8, 8), 3, 4, 4)
SPACES: dict[str, dict[str, Any]] = {
    "cells": {"type": "cells", "channels": [2, 3]},
    "macro": {"type": "macro", "channels": [2, 2, 3]},
}


def cell(*operations: str) -> dict[str, str]:
    return dict(zip(EDGES, operations, strict=True))


def test_a_cell_sums_what_its_edges_bring() -> None:
    x = torch.randn(2, 3, 4, 4)
    skips = cell(*["skip_connect"] * 6)
    torch.testing.assert_close(Cell(3, skips, running=True)(x, skips), 4 * x)  # nodes x, x, 2x, x + x + 2x
    only = {**skips, "edge_0_2": "none", "edge_1_2": "none", "edge_0_3": "none", "edge_2_3": "none"}
    torch.testing.assert_close(Cell(3, only, running=True)(x, only), x)
    pooled = {**only, "edge_1_3": "avg_pool_3x3"}
    expected = nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(Cell(3, pooled, running=True)(x, pooled), expected)
    nothing = cell(*["none"] * 6)
    assert not Cell(3, nothing, running=True)(x, nothing).any()


def test_sizes_are_those_counted_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    found = count(module, (1, 4, 4))
    assert found.parameters == 2 * 9 + 2 + 32 * 3 + 3
    assert found.multiply_adds == 4 * 4 * 2 * 9 + 32 * 3
    depthwise = nn.Conv2d(4, 4, 5, stride=2, padding=2, groups=4, bias=False)
    assert count(depthwise, (4, 8, 8)).multiply_adds == 4 * 4 * 4 * 25
    network = CellNetwork(5, cell("nor_conv_3x3", *["none"] * 4, "nor_conv_1x1"), (2, 4), 1, in_channels=1)
    stem, convolutions, halving = 2 * 9 + 4, (4 * 9 + 4 + 4 + 4) + (16 * 9 + 8 + 16 + 8), 72 + 8 + 144 + 8 + 8
    assert count(network, (1, 6, 6)).parameters == stem + convolutions + halving + 8 + 4 * 5 + 5
    by_hand = 36 * 18 + 36 * (36 + 4) + 9 * (72 + 144 + 8) + 9 * (144 + 16) + 20
    assert count(network, (1, 6, 6)).multiply_adds == by_hand
    assert network.training


@pytest.mark.parametrize("kind", SPACES)
def test_a_supernet_runs_each_architecture_as_a_network_of_its_own_and_as_a_mixture_with_all_weight_on_it(
    kind: str,
) -> None:
    space: Any = build_model({**SPACES[kind], "norm": "batch"}, SPEC)
    parameters, _ = space.init(0)
    shared = {name: value[None] for name, value in parameters.items()}
    x = torch.randn(2, 5, 1, 8, 8)
    for turn in range(4):
        architecture = {
            place: names[(turn + index) % len(names)] for index, (place, names) in enumerate(space.places.items())
        }
        path = space.chosen(architecture, shared=True)
        found = path(shared, {}, x, seeds=np.arange(2))[0]
        own = space.chosen(architecture, shared=False)
        weights, _ = own.init(1)
        assert set(weights) <= set(parameters)
        alone = own({name: shared[name] for name in weights}, {}, x, seeds=np.arange(2))[0]
        assert torch.equal(found, alone)
        mixture = torch.zeros(1, len(space.places), max(map(len, space.places.values())))
        for row, (place, names) in enumerate(space.places.items()):
            mixture[0, row, names.index(architecture[place])] = 1.0
        mixed = space({**shared, "mixture": mixture}, {}, x, seeds=np.arange(2))[0]
        torch.testing.assert_close(mixed, found)


def test_a_network_keeps_running_statistics_and_uses_them_in_evaluation() -> None:
    model: Any = build_model({**SPACES["cells"], "architecture": cell(*["nor_conv_3x3"] * 6)}, SPEC)
    parameters, buffers = model.init(0)
    theta, start = ({name: value[None] for name, value in one.items()} for one in (parameters, buffers))
    x = torch.randn(1, 6, 1, 8, 8)
    _, after = model(theta, start, x, seeds=np.arange(1))
    assert not torch.equal(after["stem.1.running_mean"], start["stem.1.running_mean"])
    together, unchanged = model(theta, after, x)
    assert torch.equal(unchanged["stem.1.running_mean"], after["stem.1.running_mean"])
    torch.testing.assert_close(model(theta, after, x[:, :1])[0], together[:, :1])


def test_the_spaces_have_the_names_of_the_tables() -> None:
    table = nas_tables.load("nasbench201").space
    assert list(table) == list(EDGES)
    assert OPERATIONS == nas_tables.OPERATIONS
    macro = nas_tables.load("nasbenchmacro").space.dimensions
    assert list(macro) == list(MacroNetwork(2).places)
    assert tuple(macro["layer_1"].values()) == tuple(BLOCKS)  # type: ignore[attr-defined]


def test_what_is_no_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"edge_0_2.*has no operation"):
        CellNetwork(2, {"edge_0_1": "none"})
    with pytest.raises(ConfigError, match="did you mean 'nor_conv_3x3'"):
        CellNetwork(2, cell("nor_conv_3x4", *["none"] * 5))
    with pytest.raises(ConfigError, match="edge_9"):
        CellNetwork(2, {**cell(*["none"] * 6), "edge_9": "none"})
    with pytest.raises(UnsupportedError, match="needs images"):
        build_model("cells", TaskSpec("regression", (1,), 1, 1, 1))
