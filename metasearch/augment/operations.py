"""The 16 operations of AutoAugment's search space, and what a level from 0 to 1 means for each.

Cubuk, Zoph, Mane, Vasudevan, Le 2019, "AutoAugment", arXiv:1805.09501, Table 6. Level 0 changes nothing (as far as an
operation can do that) and level 1 is the far end of the published range, so that a level means "how much" for all
operations; where a range has two directions around doing nothing (geometry, the four enhancements), the direction is
drawn. The published tables count some operations the other way round (more bits, a higher threshold: milder).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from metasearch.augment import colour, geometry, masks

__all__ = ["GEOMETRIC", "NAMES", "OPERATIONS", "STROKES", "Operation"]


@dataclass(frozen=True)
class Operation:
    """One operation.

    Args:
        name: as policies name it.
        kind: how it is called: ``map`` (an affine map), ``plain`` (no value), ``value``, ``place`` (a place, too) or
            ``pair`` (another image, too).
        function: what it does.
        still: the value at which it changes nothing.
        far: the value at level 1.
        signed: whether the way from ``still`` to ``far`` has an equal one in the other direction.
    """

    name: str
    kind: str
    function: Callable[..., Tensor]
    still: float = 0.0
    far: float = 0.0
    signed: bool = False

    @property
    def has_level(self) -> bool:
        """Whether a level means anything to it."""
        return self.kind != "plain"

    def value(self, level: Tensor, sign: Tensor) -> Tensor:
        """The operation's own unit at levels ``[n]`` in [0, 1]; ``sign`` is -1 or 1."""
        return self.still + (self.far - self.still) * (level * sign if self.signed else level)


OPERATIONS: tuple[Operation, ...] = (
    Operation("shear_x", "map", geometry.shear_x, 0.0, 0.3, signed=True),
    Operation("shear_y", "map", geometry.shear_y, 0.0, 0.3, signed=True),
    Operation("translate_x", "map", geometry.translation_x, 0.0, 0.45, signed=True),
    Operation("translate_y", "map", geometry.translation_y, 0.0, 0.45, signed=True),
    Operation("rotate", "map", geometry.rotation, 0.0, 30.0, signed=True),
    Operation("auto_contrast", "plain", colour.auto_contrast),
    Operation("invert", "plain", colour.invert),
    Operation("equalize", "plain", colour.equalize),
    Operation("solarize", "value", colour.solarize, 256 / 255, 0.0),
    Operation("posterize", "value", colour.posterize, 8.0, 4.0),
    Operation("contrast", "value", colour.contrast, 1.0, 1.9, signed=True),
    Operation("color", "value", colour.color, 1.0, 1.9, signed=True),
    Operation("brightness", "value", colour.brightness, 1.0, 1.9, signed=True),
    Operation("sharpness", "value", colour.sharpness, 1.0, 1.9, signed=True),
    Operation("cutout", "place", masks.cutout, 0.0, 0.2),
    Operation("sample_pairing", "pair", masks.sample_pairing, 0.0, 0.4),
)
"""In the order of the paper's table. Values: shears in pixels a pixel, translations in sides, rotation in degrees,
solarize's threshold and posterize's bits of 8-bit pictures, factors, sides of the square in widths, share of the other.
"""

NAMES: tuple[str, ...] = tuple(one.name for one in OPERATIONS)
GEOMETRIC: tuple[str, ...] = NAMES[:5]
STROKES: tuple[str, ...] = (*GEOMETRIC, "cutout")
"""What makes sense for drawings in ink, where operations on colours do nothing or destroy the picture."""
