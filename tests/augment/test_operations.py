"""Each operation against Pillow on 8-bit pictures (and kornia where it is installed), its derivatives against
differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from metasearch.augment import NAMES, OPERATIONS, colour, masks
from metasearch.augment.apply import Place, apply
from metasearch.augment.colour import SOFTNESS
from metasearch.core.seeds import Draws

ONE = 1.0 / 255


def pictures(channels: int = 3, n: int = 3, height: int = 20, width: int = 28) -> torch.Tensor:
    """8-bit pictures with gradients, blobs and noise, as floats ``[n, C, H, W]``."""
    y, x = np.mgrid[:height, :width]
    noise = Draws(np.arange(n), "pictures").uniform(channels * height * width).reshape(n, channels, height, width)
    waves = [np.sin(x / (3 + k) + k) * np.cos(y / (4 + k)) for k in range(channels)]
    raw = 110 + 80 * np.stack(waves)[None] + 40 * noise - 15 * np.arange(n)[:, None, None, None]
    return torch.from_numpy(raw.clip(0, 255).astype(np.uint8)).to(torch.float64) / 255


def as_pil(x: torch.Tensor) -> Image.Image:
    raw = (x * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(raw[..., 0] if raw.shape[-1] == 1 else raw)


def from_pil(image: Image.Image) -> torch.Tensor:
    raw = np.asarray(image)
    return torch.from_numpy(raw.reshape(*raw.shape[:2], -1).transpose(2, 0, 1).astype(np.float64)) / 255


def do(name: str, x: torch.Tensor, value: float) -> torch.Tensor:
    """One operation by its own value instead of a level."""
    operation = next(one for one in OPERATIONS if one.name == name)
    n = len(x)
    level = (value - operation.still) / (operation.far - operation.still) if operation.has_level else 0.0
    levels = torch.full((n,), abs(level), dtype=x.dtype)
    signs = torch.full((n,), -1.0 if level < 0 else 1.0, dtype=x.dtype)
    place = Place(np.full(n, NAMES.index(name)), levels, signs, np.full((n, 2), 0.5))
    return apply((place,), x, fill=0.0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "value", "reference", "tolerance"),
    [
        ("auto_contrast", 0.0, ImageOps.autocontrast, 1.01 * ONE),
        ("invert", 0.0, ImageOps.invert, 1e-12),
        ("equalize", 0.0, ImageOps.equalize, 1e-12),
        ("solarize", 100.4 / 255, lambda image: ImageOps.solarize(image, 101), 1e-12),
        ("solarize", 256 / 255, lambda image: image, 1e-12),
        ("posterize", 5.0, lambda image: ImageOps.posterize(image, 5), 1e-12),
        ("posterize", 8.0, lambda image: image, 1e-12),
        ("contrast", 1.7, lambda image: ImageEnhance.Contrast(image).enhance(1.7), 1.51 * ONE),
        ("contrast", 0.3, lambda image: ImageEnhance.Contrast(image).enhance(0.3), 1.51 * ONE),
        ("color", 1.6, lambda image: ImageEnhance.Color(image).enhance(1.6), 1.51 * ONE),
        ("color", 0.2, lambda image: ImageEnhance.Color(image).enhance(0.2), 1.51 * ONE),
        ("brightness", 1.5, lambda image: ImageEnhance.Brightness(image).enhance(1.5), 1.01 * ONE),
        ("brightness", 0.4, lambda image: ImageEnhance.Brightness(image).enhance(0.4), 1.01 * ONE),
        ("sharpness", 1.9, lambda image: ImageEnhance.Sharpness(image).enhance(1.9), 1.51 * ONE),
        ("sharpness", 0.1, lambda image: ImageEnhance.Sharpness(image).enhance(0.1), 1.51 * ONE),
    ],
)
def test_operations_on_colours_do_what_pillow_does_up_to_its_rounding(channels, name, value, reference, tolerance):
    x = pictures(channels)
    expected = torch.stack([from_pil(reference(as_pil(one))) for one in x])
    torch.testing.assert_close(do(name, x, value), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "value", "matrix"),
    [
        ("shear_x", 0.2, (1, 0.2, 0, 0, 1, 0)),
        ("shear_x", -0.3, (1, -0.3, 0, 0, 1, 0)),
        ("shear_y", 0.15, (1, 0, 0, 0.15, 1, 0)),
        ("translate_x", 0.25, (1, 0, 0.25 * 28, 0, 1, 0)),
        ("translate_y", -0.33, (1, 0, 0, 0, 1, -0.33 * 20)),
        ("rotate", 25.0, None),
        ("rotate", -11.0, None),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_geometry_is_pillows_bilinear_one_inside_of_the_picture(name, value, matrix, channels):
    x = pictures(channels)
    bilinear = Image.Resampling.BILINEAR
    expected, inside = [], []
    for one in x:
        image = as_pil(one)
        white = Image.new("L", image.size, 255)
        turn = [
            (lambda picture: picture.rotate(value, resample=bilinear))
            if matrix is None
            else (lambda picture: picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample=bilinear))
        ][0]
        expected.append(from_pil(turn(image)))
        inside.append(from_pil(turn(white)) > 0.999)
    # Pillow repeats the edge where the result leaves the picture by less than a pixel; ours blends into the fill there.
    known = do(name, torch.ones_like(x), value) > 0.999
    assert known.double().mean() > 0.5
    known &= torch.stack(inside)
    torch.testing.assert_close(do(name, x, value)[known], torch.stack(expected)[known], rtol=0, atol=1.51 * ONE)


def test_what_moves_in_and_what_is_cut_out_is_the_fill():
    x = torch.ones(2, 3, 8, 8, dtype=torch.float64)
    operation = NAMES.index("translate_x")
    place = Place(
        np.full(2, operation), torch.full((2,), 0.25 / 0.45).double(), torch.ones(2).double(), np.zeros((2, 2))
    )
    moved = apply((place,), x, fill=0.25)
    torch.testing.assert_close(moved[..., 6:], torch.full((2, 3, 8, 2), 0.25, dtype=torch.float64))
    torch.testing.assert_close(moved[..., :6], x[..., :6])


def test_cutout_paints_a_square_around_its_place_cut_off_at_the_edge():
    x = torch.ones(2, 1, 10, 10)
    cut = masks.cutout(x, torch.tensor([0.2, 0.4]), torch.tensor([[0.5, 0.3], [0.0, 0.0]]), 0.0)
    expected = torch.ones(2, 1, 10, 10)
    expected[0, :, 2:4, 4:6] = 0  # side 2 around (5, 3)
    expected[1, :, :2, :2] = 0  # side 4 around the corner
    torch.testing.assert_close(cut, expected)


def test_pairs_are_mixed_within_their_group_only():
    x = torch.arange(6.0)[:, None, None, None].expand(6, 1, 2, 2) / 10
    where = np.array([[0.0, 0], [0.4, 0], [0.9, 0]] * 2)
    place = Place(np.full(6, NAMES.index("sample_pairing")), torch.ones(6), torch.ones(6), where)
    mixed = apply((place,), x, group=3)[:, 0, 0, 0] * 10
    partners = torch.tensor([0.0, 1, 2, 3, 4, 5])  # floor(3 u) + the group's first
    torch.testing.assert_close(mixed, 0.6 * torch.arange(6.0) + 0.4 * partners)
    alone = apply((place,), x, group=1)
    torch.testing.assert_close(alone, x)


def test_level_zero_changes_nothing_and_groups_of_operations_do_not_disturb_each_other():
    x = pictures(3, n=17)
    n = len(x)
    numbers = np.arange(n) % 17 - 1  # nothing, then each of the 16
    levels = torch.zeros(n, dtype=x.dtype)
    where = Draws(np.arange(n)).uniform(2)
    still = apply((Place(numbers, levels, torch.ones_like(levels), where),), x, group=n)
    plain = np.isin(numbers, [NAMES.index(name) for name in ("auto_contrast", "invert", "equalize")])
    torch.testing.assert_close(still[~plain], x[~plain])
    strong = torch.full((n,), 0.7, dtype=x.dtype)
    order = Draws([5]).permutation(n)[0]
    together = apply((Place(numbers, strong, torch.ones_like(strong), where),), x, group=n)
    for row in order:
        one = slice(row, row + 1)
        if numbers[row] == NAMES.index("sample_pairing"):
            continue
        single = apply((Place(numbers[one], strong[one], torch.ones(1, dtype=x.dtype), where[one]),), x[one])
        torch.testing.assert_close(together[one], single)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate", "contrast", "color", "brightness",
             "sharpness", "sample_pairing"],
)  # fmt: skip
def test_derivatives_in_level_and_pixels_are_those_of_differences(name, channels):
    x = (pictures(channels, n=2, height=4, width=5) * 0.5 + 0.21).requires_grad_()
    # 0.137: no sample falls on a pixel's middle, and no pixel leaves [0, 1]
    level = torch.full((2,), 0.137, dtype=torch.float64, requires_grad=True)
    where = np.array([[0.9, 0.5], [0.1, 0.5]])

    def run(levels, images):
        place = Place(np.full(2, NAMES.index(name)), levels, torch.tensor([1.0, -1.0]).double(), where)
        return apply((place,), images, fill=0.3)

    assert torch.autograd.gradcheck(run, (level, x), eps=1e-6, atol=1e-7)
    if name == "color" and channels == 1:
        return
    (slope,) = torch.autograd.grad(run(level, x).square().sum(), level)
    assert (slope != 0).all()


def test_stand_ins_for_derivatives_are_what_they_are_said_to_be():
    x = pictures(3, n=1)
    bits = torch.tensor([5.3], dtype=torch.float64, requires_grad=True)
    after = colour.posterize(x, bits)
    weights = torch.linspace(-1, 1, after.numel(), dtype=torch.float64).view_as(after)
    (slope,) = torch.autograd.grad((after * weights).sum(), bits)
    steps = torch.floor((x * 255).round() / 8)  # 5.3 is carried out as 5 bits: steps of 2^3
    expected = (weights * steps / 255).sum() * -np.log(2) * 2 ** (8 - 5.3)
    torch.testing.assert_close(slope[0], expected)

    threshold = torch.tensor([0.41], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((colour.solarize(x, threshold) * weights).sum(), threshold)
    soft = torch.sigmoid((x - 0.41) / SOFTNESS)
    expected = (weights * (1 - 2 * x) * -soft * (1 - soft) / SOFTNESS).sum()
    torch.testing.assert_close(slope[0], expected)

    side = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    where = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    (slope,) = torch.autograd.grad((masks.cutout(x, side, where, 0.0) * weights).sum(), side)

    def smooth(value):  # the mask with one factor softened at a time: the product rule at the sharp mask
        half = value * 14
        across = (torch.arange(28).double() + 0.5 - 14).abs()
        down = (torch.arange(20).double() + 0.5 - 10).abs()
        sharp = [(down < half.detach()).double(), (across < half.detach()).double()]
        one = torch.sigmoid(half - down)[:, None] * sharp[1]
        other = sharp[0][:, None] * torch.sigmoid(half - across)
        return (-(one + other) * x * weights).sum()

    (expected,) = torch.autograd.grad(smooth(side), side)
    torch.testing.assert_close(slope, expected)

    for function in (colour.equalize, lambda v: colour.posterize(v, torch.full((1,), 5.0))):
        leaf = x.clone().requires_grad_()
        (through,) = torch.autograd.grad((function(leaf) * weights).sum(), leaf)
        torch.testing.assert_close(through, weights)


def test_kornia_agrees_where_it_computes_the_same():
    kornia = pytest.importorskip("kornia")
    from kornia import enhance

    x = pictures(3)
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(do("sharpness", x, 1.9), enhance.sharpness(x, 1.9).double(), **close)
    torch.testing.assert_close(do("brightness", x, 1.5), enhance.adjust_brightness_accumulative(x, 1.5), **close)
    torch.testing.assert_close(
        do("contrast", x, 1.4), enhance.adjust_contrast_with_mean_subtraction(x, 1.4), atol=2e-3, rtol=0
    )
    torch.testing.assert_close(do("solarize", x, 0.5005), enhance.solarize(x, 0.5005), **close)
    torch.testing.assert_close(do("posterize", x, 5.0), enhance.posterize(x, 5), atol=1.01 * ONE, rtol=0)
    turned = kornia.geometry.transform.rotate(x, torch.full((len(x),), 17.0).double(), align_corners=False)
    torch.testing.assert_close(do("rotate", x, 17.0)[..., 5:-5, 8:-8], turned[..., 5:-5, 8:-8], **close)
