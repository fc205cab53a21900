"""Affine distortions of pictures: drawn anew for each picture of a task, from the task's seed.

They widen training (Koch, Zemel, Salakhutdinov 2015, Sec. 3.3), and move held-out pictures away from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.config import Config, validate
from metasearch.core.errors import ConfigError
from metasearch.core.seeds import Draws

__all__ = ["Distortions", "SplitDistortions", "distort", "split_distortions"]

_Interval = tuple[float, float]
_COMPONENTS = 8
"""rotate, shear x, shear y, scale x, scale y, shift x, shift y, invert: the columns of drawn values."""
_NEUTRAL = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0])


def _interval(value: Any) -> _Interval:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = (-abs(value), abs(value))
    return _pair(value)


def _pair(value: Any) -> _Interval:
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError("", f"expected [low, high], equal for a fixed distortion, got {value!r}")
    return low, high


def _axes(value: Any, neutral: _Interval, read: Any) -> tuple[_Interval, _Interval]:
    """Of both axes: the same interval, or ``{x: ..., y: ...}``; a missing axis is left alone."""
    if isinstance(value, Mapping):
        if not value or set(value) - {"x", "y"}:
            raise ConfigError("", f"expected x, y or both, got {sorted(map(str, value))}")
        return (
            read(value["x"]) if "x" in value else neutral,
            read(value["y"]) if "y" in value else neutral,
        )
    found = read(value)
    return found, found


Interval = Annotated[_Interval, BeforeValidator(_interval)]
Axes = Annotated[tuple[_Interval, _Interval], BeforeValidator(lambda value: _axes(value, (0.0, 0.0), _interval))]
Scales = Annotated[tuple[_Interval, _Interval], BeforeValidator(lambda value: _axes(value, (1.0, 1.0), _pair))]


class Distortions(Config):
    """What may happen to each picture of a split, independently of the others.

    A picture is scaled, then sheared, rotated and shifted, all about its middle, with bilinear interpolation. A number
    ``r`` stands for ``[-r, r]``; values are uniform in their interval, and an interval ``[a, a]`` is a fixed value.
    ``shear``, ``scale`` and ``shift`` have a value of their own for each axis; ``{x: ..., y: ...}`` gives each axis its
    own interval, and leaves alone one that is not named.

    Args:
        rotate: degrees, counterclockwise as the picture is seen.
        shear: below 1; along x, a row moves by this times its height above the middle.
        scale: factors; ``[0.8, 1.2]`` makes pictures smaller or larger.
        shift: pixels of the task's picture, to the right (x) and upwards (y).
        probability: of each of these, and of ``invert``, to happen, independently: of seven affine parts, Koch's
            pictures have half.
        invert: 1 - x, after all others.
        outside: what comes in from beyond the edges: ``zero`` (Omniglot's paper), or the ``edge`` goes on.

    Example:
        >>> Distortions(rotate=10, shear={"x": [0.3, 0.3]}).shear
        ((0.3, 0.3), (0.0, 0.0))
    """

    rotate: Interval = (0.0, 0.0)
    shear: Axes = ((0.0, 0.0), (0.0, 0.0))
    scale: Scales = ((1.0, 1.0), (1.0, 1.0))
    shift: Axes = ((0.0, 0.0), (0.0, 0.0))
    probability: float = Field(default=1.0, ge=0.0, le=1.0)
    invert: bool = False
    outside: Literal["zero", "edge"] = "zero"

    @field_validator("shear")
    @classmethod
    def _invertible(cls, value: tuple[_Interval, _Interval]) -> tuple[_Interval, _Interval]:
        if max(abs(end) for axis in value for end in axis) >= 1.0:
            raise ConfigError("", f"expected numbers between -1 and 1, got {value}")
        return value

    @field_validator("scale")
    @classmethod
    def _positive(cls, value: tuple[_Interval, _Interval]) -> tuple[_Interval, _Interval]:
        if min(low for low, _ in value) <= 0.0:
            raise ConfigError("", f"expected factors above 0, got {value}")
        return value

    @property
    def moves(self) -> bool:
        """Whether any pixel changes its place."""
        return bool((self._bounds() != _NEUTRAL[:7, None]).any())

    def draw(self, seeds: NDArray[np.int64], n: int) -> NDArray[np.float64]:
        """What happens to each of ``n`` pictures of each task, ``[T, n, 8]``: rotation (radians), shears, scales,
        shifts, inverted or not. A setting changes the draws of no other.
        """
        unit = Draws(seeds, "distortions").uniform(2 * _COMPONENTS * n).reshape(-1, n, 2, _COMPONENTS)
        low, high = np.vstack([self._bounds(), [[float(self.invert)] * 2]]).T
        values = low + (high - low) * unit[:, :, 0]
        return np.where(unit[:, :, 1] < self.probability, values, _NEUTRAL)

    def _bounds(self) -> NDArray[np.float64]:
        turn = math.radians(self.rotate[0]), math.radians(self.rotate[1])
        return np.array([turn, *self.shear, *self.scale, *self.shift])


def split_distortions(given: Any) -> dict[str, Distortions]:
    """Distortions of each split that has any, from settings by split.

    Raises:
        ConfigError: naming the offending key.

    >>> split_distortions({"test": {"invert": True}})["test"].invert
    True
    """
    if not isinstance(given, Mapping):
        raise ConfigError("", f"expected settings below the split they are for, got {given!r}")
    found = {}
    for split, settings in given.items():
        if not isinstance(settings, Mapping | Distortions):
            raise ConfigError(
                str(split),
                f"expected settings below the split they are for, as {{train: {{rotate: 10}}}}, got {settings!r}",
            )
        found[str(split)] = (
            settings if isinstance(settings, Distortions) else validate(Distortions, settings, str(split))
        )
    return found


SplitDistortions = Annotated[dict[str, Distortions], BeforeValidator(split_distortions)]
"""A mapping from split to settings, for example ``{train: {rotate: 10, probability: 0.5}}``."""


def distort(x: Tensor, settings: Distortions, values: NDArray[np.float64]) -> Tensor:
    """Pictures ``[T, n, channels, height, width]`` in [0, 1], distorted as drawn ``values [T, n, 8]`` say.

    A picture's result does not depend on the others.
    """
    flat, drawn = x.flatten(0, 1), values.reshape(-1, _COMPONENTS)
    if settings.moves:
        padding = "zeros" if settings.outside == "zero" else "border"
        flat = F.grid_sample(flat, _places(drawn, flat), padding_mode=padding, align_corners=False)
    if settings.invert:
        inverted = torch.from_numpy(drawn[:, 7]).to(flat).reshape(-1, 1, 1, 1)
        flat = inverted + (1 - 2 * inverted) * flat
    return flat.reshape(x.shape)


def _places(values: NDArray[np.float64], x: Tensor) -> Tensor:
    """Where each pixel comes from, ``[N, height, width, 2]`` in [-1, 1].

    Sums of products rather than a matrix product, whose rounding may depend on how many pictures there are.
    """
    height, width = x.shape[-2:]
    inverse, shift = np.linalg.inv(_matrices(values)), values[:, 5:7]
    offset = -np.einsum("nij,nj->ni", inverse, shift)
    # y points up here, and down in an array
    rows = np.stack(
        [inverse[:, 0, 0], -inverse[:, 0, 1], offset[:, 0], -inverse[:, 1, 0], inverse[:, 1, 1], -offset[:, 1]]
    )
    a, b, c, d, e, f = torch.from_numpy(rows).to(x).reshape(6, -1, 1, 1)
    across = torch.arange(width, device=x.device, dtype=x.dtype) - (width - 1) / 2
    down = (torch.arange(height, device=x.device, dtype=x.dtype) - (height - 1) / 2).unsqueeze(-1)
    return torch.stack([(a * across + b * down + c) * (2 / width), (d * across + e * down + f) * (2 / height)], dim=-1)


def _matrices(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[N, 2, 2]``: rotation times shear times scale, x to the right and y upwards."""
    angle, shear_x, shear_y, scale_x, scale_y = values[:, :5].T
    one, cos, sin = np.ones_like(angle), np.cos(angle), np.sin(angle)
    rotation = np.stack([cos, -sin, sin, cos], -1).reshape(-1, 2, 2)
    shear = np.stack([one, shear_x, shear_y, one], -1).reshape(-1, 2, 2)
    return rotation @ (shear * np.stack([scale_x, scale_y], -1)[:, None, :])
