"""Networks whose layers are chosen one by one: an identity, or one of two inverted residual blocks.

The choices are those of NAS-Bench-Macro (Su et al. 2021, CVPR). The blocks are MobileNetV2's (Sandler et al. 2018,
arXiv 1801.04381, section 3.4). Where a layer changes the shape of the maps, its identity is a 1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from metasearch.models.architectures.places import Architecture, Place, SearchNetwork

__all__ = ["BLOCKS", "MacroNetwork"]

BLOCKS = {"identity": None, "mb3_k3": (3, 3), "mb6_k5": (6, 5)}
"""Expansion and kernel size of each block."""


class MacroNetwork(SearchNetwork):
    """A chain of layers; each layer's block is a choice.

    Args:
        num_classes: outputs.
        architecture: block of each layer (``layer_1`` ...); None for a supernet.
        channels: width of each layer, hence their number; maps are halved where the width changes.
        in_channels: of the images.
        stem_stride: 2 halves the images at the start.
        running: whether batch norm keeps running statistics for evaluation; else it takes those of the batch.
    """

    def __init__(
        self,
        num_classes: int,
        architecture: Architecture | None = None,
        channels: Sequence[int] = (32, 64, 64, 128, 128, 128, 256, 256),
        in_channels: int = 3,
        stem_stride: int = 1,
        running: bool = True,
    ) -> None:
        names = [f"layer_{number}" for number in range(1, len(channels) + 1)]
        super().__init__(dict.fromkeys(names, tuple(BLOCKS)), architecture)
        before = channels[0]
        self.stem = nn.Sequential(*_convolution(in_channels, before, 3, stem_stride, running=running), nn.ReLU())
        self.layers = nn.ModuleDict()
        for name, width in zip(names, channels, strict=True):
            self.layers[name] = self._place(name, before, width, running=running)
            before = width
        self.head = nn.Linear(before, num_classes)

    def _place(self, name: str, before: int, width: int, *, running: bool) -> Place:
        def make(block: str) -> nn.Module:
            stride = 1 if width == before else 2
            shape = BLOCKS[block]
            if shape is not None:
                return _Inverted(before, width, stride, *shape, running=running)
            if stride == 1:
                return nn.Identity()
            return nn.Sequential(*_convolution(before, width, 1, stride, running=running))

        return Place(make, tuple(BLOCKS), None if self.path is None else self.path[name])

    def forward(self, x: Tensor) -> Tensor:
        """``[n, num_classes]`` of images ``[n, in_channels, H, W]``."""
        x = self.stem(x)
        for name, layer in self.layers.items():
            x = layer(x, self.how(name))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class _Inverted(nn.Module):
    """Expand, filter each channel alone, project; with a shortcut where the shape is kept."""

    def __init__(self, channels: int, width: int, stride: int, expansion: int, kernel: int, *, running: bool) -> None:
        super().__init__()
        inner = channels * expansion
        self.shortcut = stride == 1 and channels == width
        self.layers = nn.Sequential(
            *_convolution(channels, inner, 1, 1, running=running),
            nn.ReLU6(),
            *_convolution(inner, inner, kernel, stride, groups=inner, running=running),
            nn.ReLU6(),
            *_convolution(inner, width, 1, 1, running=running),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.shortcut else y


def _convolution(
    channels: int, width: int, kernel: int, stride: int, *, groups: int = 1, running: bool
) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return convolution, nn.BatchNorm2d(width, track_running_stats=running)
