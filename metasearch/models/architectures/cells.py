"""Networks of equal cells, whose edges are chosen: the space of NAS-Bench-201.

Dong and Yang 2020, arXiv 2001.00326, section 2.1: a cell has four nodes and an operation on each of the six edges
between them; a stem, stages of cells with residual blocks of stride 2 between them, and a mean over the last map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metasearch.models.architectures.places import Architecture, Place, SearchNetwork

__all__ = ["EDGES", "OPERATIONS", "Cell", "CellNetwork"]

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES = 4
EDGES = {f"edge_{i}_{j}": (i, j) for j in range(1, NODES) for i in range(j)}
"""Start and end of each edge; a node is the sum of its incoming edges."""


class CellNetwork(SearchNetwork):
    """Stages of cells; all cells are equal but for their weights.

    Args:
        num_classes: outputs.
        architecture: operation of each edge (``edge_0_1`` ...); None for a supernet.
        channels: width of each stage; maps are halved from one stage to the next.
        cells: cells in each stage.
        in_channels: of the images.
        stem_stride: 2 halves the images at the start.
        running: whether batch norm keeps running statistics for evaluation; else it takes those of the batch.
    """

    def __init__(
        self,
        num_classes: int,
        architecture: Architecture | None = None,
        channels: Sequence[int] = (16, 32, 64),
        cells: int = 5,
        in_channels: int = 3,
        stem_stride: int = 1,
        running: bool = True,
    ) -> None:
        super().__init__(dict.fromkeys(EDGES, OPERATIONS), architecture)
        first = channels[0]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, first, 3, stem_stride, 1, bias=False), _norm(first, running=running)
        )
        self.layers = nn.ModuleList()
        before = first
        for width in channels:
            if len(self.layers):
                self.layers.append(_Halving(before, width, running=running))
            self.layers.extend(Cell(width, self.path, running=running) for _ in range(cells))
            before = width
        self.norm = _norm(before, running=running)
        self.head = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, num_classes]`` of images ``[n, in_channels, H, W]``."""
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x, {edge: self.how(edge) for edge in EDGES}) if isinstance(layer, Cell) else layer(x)
        logits: Tensor = self.head(torch.relu(self.norm(x)).mean((2, 3)))
        return logits


class Cell(nn.Module):
    """Four nodes: the input, and sums of operations on the nodes before."""

    def __init__(self, channels: int, architecture: Architecture | None, *, running: bool) -> None:
        super().__init__()

        def make(name: str) -> nn.Module:
            if name == "avg_pool_3x3":
                return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
            if name == "skip_connect":
                return nn.Identity()
            kernel = 1 if name == "nor_conv_1x1" else 3
            convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
            return nn.Sequential(nn.ReLU(), convolution, _norm(channels, running=running))

        self.edges = nn.ModuleDict(
            {edge: Place(make, OPERATIONS, None if architecture is None else architecture[edge]) for edge in EDGES}
        )

    def forward(self, x: Tensor, how: dict[str, str | Tensor]) -> Tensor:
        """``x`` ``[n, C, H, W]``; the shape is kept."""
        nodes = [x]
        for node in range(1, NODES):
            incoming = [cast("Place", self.edges[e])(nodes[i], how[e]) for e, (i, j) in EDGES.items() if j == node]
            reached = [one for one in incoming if one is not None]
            nodes.append(torch.stack(reached).sum(0) if reached else torch.zeros_like(x))
        return nodes[-1]


class _Halving(nn.Module):
    """A residual block that halves the map: two 3x3 convolutions beside a 1x1 one of the means of 2x2 pixels."""

    def __init__(self, channels: int, width: int, *, running: bool) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, width, 3, 2, 1, bias=False),
            _norm(width, running=running),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            _norm(width, running=running),
        )
        self.projection = nn.Conv2d(channels, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.projection(F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False))
        found: Tensor = self.convolutions(x) + shortcut
        return found


def _norm(channels: int, *, running: bool) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=running)
