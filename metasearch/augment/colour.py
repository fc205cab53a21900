"""Operations on pixels' values, for images in [0, 1] ``[n, C, H, W]`` with one strength an image, ``value [n]``.

What they do is what Pillow's ``ImageOps`` and ``ImageEnhance`` do to 8-bit pictures, without the rounding in between.
Where that is a step function, the derivative is a stated stand-in (a straight-through estimate; Bengio, Leonard,
Courville 2013, arXiv:1308.3432); everywhere else it is the exact one.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "auto_contrast",
    "brightness",
    "color",
    "contrast",
    "equalize",
    "invert",
    "posterize",
    "sharpness",
    "solarize",
]

_LUMA = (0.299, 0.587, 0.114)
SOFTNESS = 0.05
"""Width of the step that stands in for solarize's threshold in derivatives, in units of a pixel's range."""


def auto_contrast(x: Tensor) -> Tensor:
    """Stretches each channel to [0, 1]; one of a single value stays."""
    low, high = (extreme[..., None, None] for extreme in torch.aminmax(x.flatten(2), dim=-1))
    spread = high - low
    return torch.where(spread > 0, (x - low) / torch.where(spread > 0, spread, torch.ones_like(spread)), x)


def invert(x: Tensor) -> Tensor:
    """1 - x."""
    return 1 - x


def equalize(x: Tensor) -> Tensor:
    """Spreads each channel's 256 levels so that all are about equally frequent. Derivative: that of the identity."""
    with torch.no_grad():
        n, channels = x.shape[:2]
        bins = (x * 255).round().clamp(0, 255).to(torch.int64).flatten(2).flatten(0, 1)
        rows = torch.arange(len(bins), device=x.device)[:, None] * 256
        counts = torch.bincount((bins + rows).flatten(), minlength=256 * len(bins)).view(-1, 256)
        pixels = bins.shape[1]
        last = (counts > 0).to(torch.int64).mul(torch.arange(256, device=x.device)).amax(-1, keepdim=True)
        step = (pixels - counts.gather(1, last)) // 255
        below = counts.cumsum(-1) - counts
        levels = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
        levels = torch.where(step > 0, levels, torch.arange(256, device=x.device))
        after = levels.gather(1, bins).view(n, channels, *x.shape[2:]).to(x.dtype) / 255
    return _through(x, after)


def solarize(x: Tensor, value: Tensor) -> Tensor:
    """Inverts pixels that are not below the threshold ``value``.

    Derivative in the threshold: that of a logistic step of width :data:`SOFTNESS` in its place.
    """
    threshold = value[:, None, None, None]
    above = (x >= threshold).to(x.dtype)
    if value.requires_grad:
        soft = torch.sigmoid((x.detach() - threshold) / SOFTNESS)
        above = above + (soft - soft.detach())
    return x + above * (1 - 2 * x)


def posterize(x: Tensor, value: Tensor) -> Tensor:
    """Keeps the highest ``value`` bits (rounded to a whole number) of each pixel's eight.

    Derivative in the bits: with q = 2^(8 - bits) levels to a step and k the number of whole steps in a pixel, that of
    k q, for k as it is; in the pixels: that of the identity.
    """
    bits = value[:, None, None, None]
    size = torch.exp2(8 - bits.detach().round())
    steps = torch.floor((x.detach() * 255).round() / size)
    after = steps * size / 255
    if value.requires_grad:
        moving = torch.exp2(8 - bits)
        after = after + steps * (moving - moving.detach()) / 255
    return after + (x - x.detach()) if x.requires_grad else after


def contrast(x: Tensor, value: Tensor) -> Tensor:
    """``value`` times the distance from the mean grey of the image; 1 changes nothing."""
    mean = grey(x).flatten(1).mean(-1)[:, None, None, None]
    return _blend(mean, x, value)


def color(x: Tensor, value: Tensor) -> Tensor:
    """``value`` times the distance from each pixel's grey; images without colour stay."""
    return x if x.shape[1] == 1 else _blend(grey(x), x, value)


def brightness(x: Tensor, value: Tensor) -> Tensor:
    """``value`` times the image."""
    return (x * value[:, None, None, None]).clamp(0, 1)


def sharpness(x: Tensor, value: Tensor) -> Tensor:
    """``value`` times the distance from a smoothed image (Pillow's filter ``SMOOTH``; the border is not smoothed)."""
    if min(x.shape[-2:]) < 3:
        return x
    # Sums of three by three pixels as sums of sums: an average pool takes several times as long on a processor.
    rows = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    total = rows[..., :-2, :] + rows[..., 1:-1, :] + rows[..., 2:, :]
    middle = x[..., 1:-1, 1:-1]
    # smooth + value (x - smooth), with smooth = (total + 4 x) / 13; on the border, smooth is x.
    share = (value[:, None, None, None] - 1) / 13
    after = x.clone()
    after[..., 1:-1, 1:-1] = (middle + share * (9 * middle - total)).clamp(0, 1)
    return after


def grey(x: Tensor) -> Tensor:
    """``[n, 1, H, W]``: the luma of three channels (ITU-R 601), the mean of any other number."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True) if x.shape[1] > 1 else x
    red, green, blue = _LUMA
    return red * x[:, :1] + green * x[:, 1:2] + blue * x[:, 2:]


def _blend(plain: Tensor, x: Tensor, value: Tensor) -> Tensor:
    return (plain + value[:, None, None, None] * (x - plain)).clamp(0, 1)


def _through(x: Tensor, after: Tensor) -> Tensor:
    """``after``, with the derivative of x."""
    return after + (x - x.detach()) if x.requires_grad else after
