"""Affine distortions, against pixels that are moved by hand."""

import math

import numpy as np
import pytest
import torch

from metasearch.core.config import validate
from metasearch.core.errors import ConfigError
from metasearch.tasks.base import FewShot
from metasearch.tasks.distortions import Distortions, distort
from metasearch.tasks.omniglot import Omniglot

SEEDS = np.array([3, 2**60 + 1, 17])
KOCH = {"rotate": 10, "shear": 0.3, "scale": [0.8, 1.2], "shift": 2, "probability": 0.5}


def pictures(*shape, dtype=torch.float64):
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def moved(x, settings):
    """What fixed settings make of pictures ``[n, channels, height, width]``."""
    values = settings.draw(np.array([0]), len(x))
    return distort(x.unsqueeze(0), settings, values)[0]


def by_hand(picture, values, edge):
    """One channel, pixel by pixel: y upwards, the source of a place is the inverse of scale, shear, rotation, shift."""
    angle, shear_x, shear_y, scale_x, scale_y, right, up, inverted = values
    height, width = picture.shape
    out = np.zeros((height, width))
    forward = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = forward @ np.array([[1, shear_x], [shear_y, 1]]) @ np.diag([scale_x, scale_y])

    def pixel(i, j):
        if edge:
            i, j = min(max(i, 0), height - 1), min(max(j, 0), width - 1)
        return picture[i, j] if 0 <= i < height and 0 <= j < width else 0.0

    for row in range(height):
        for column in range(width):
            place = np.array([column - (width - 1) / 2 - right, (height - 1) / 2 - row - up])
            x, y = np.linalg.solve(forward, place)
            i, j = (height - 1) / 2 - y, x + (width - 1) / 2
            if edge:
                i, j = min(max(i, 0), height - 1), min(max(j, 0), width - 1)
            top, left = math.floor(i), math.floor(j)
            down, along = i - top, j - left
            value = (1 - down) * ((1 - along) * pixel(top, left) + along * pixel(top, left + 1))
            value += down * ((1 - along) * pixel(top + 1, left) + along * pixel(top + 1, left + 1))
            out[row, column] = 1 - value if inverted else value
    return out


@pytest.mark.parametrize("outside", ["zero", "edge"])
def test_drawn_distortions_are_what_a_loop_over_pixels_gives(outside):
    settings = Distortions(**{**KOCH, "rotate": 60}, invert=True, outside=outside)
    x = pictures(3, 4, 2, 7, 10)
    values = settings.draw(SEEDS, 4)
    found = distort(x, settings, values)
    for task in range(3):
        for n in range(4):
            for channel in range(2):
                expected = by_hand(x[task, n, channel].numpy(), values[task, n], outside == "edge")
                assert np.allclose(found[task, n, channel], expected, atol=1e-12)


def test_quarter_turns_and_whole_pixels_only_move_pixels():
    x = pictures(2, 1, 6, 6)
    assert torch.allclose(moved(x, Distortions(rotate=[90, 90])), torch.rot90(x, 1, (2, 3)))
    right_and_down = moved(x, Distortions(shift={"x": [2, 2], "y": [-1, -1]}))
    assert torch.allclose(right_and_down[..., 1:, 2:], x[..., :-1, :-2])
    assert float(right_and_down[..., 0, :].max()) < 1e-12
    assert float(right_and_down[..., :2].max()) < 1e-12


def test_a_shear_along_x_slants_and_leaves_rows_in_their_row():
    x = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    x[..., 3] = 1.0
    slanted = moved(x, Distortions(shear={"x": [0.5, 0.5]}))[0, 0]
    assert [round(float(row @ torch.arange(7.0, dtype=torch.float64)), 6) for row in slanted] == [
        4.5, 4.0, 3.5, 3.0, 2.5, 2.0, 1.5,
    ]  # fmt: skip


def test_inversion_comes_last_so_that_what_comes_in_is_paper():
    x = torch.zeros(1, 1, 4, 4)
    assert torch.equal(moved(x, Distortions(shift=[3, 3], invert=True)), torch.ones(1, 1, 4, 4))


def test_draws_lie_in_their_intervals_and_happen_as_often_as_said():
    values = Distortions(**KOCH, invert=True).draw(np.arange(200), 50).reshape(-1, 8)
    neutral = np.array([0, 0, 0, 1, 1, 0, 0, 0])
    low = np.array([-math.radians(10), -0.3, -0.3, 0.8, 0.8, -2, -2, 0])
    high = np.array([math.radians(10), 0.3, 0.3, 1.2, 1.2, 2, 2, 1])
    assert ((values >= low) & (values <= high)).all()
    assert np.abs((values != neutral).mean(0) - 0.5).max() < 0.02
    happened = [values[values[:, i] != neutral[i], i] for i in range(7)]
    for i, one in enumerate(happened):
        width = high[i] - low[i]
        assert abs(one.mean() - neutral[i]) < 0.02 * width
        assert abs(one.var() - width**2 / 12) < 0.01 * width**2
    together = np.corrcoef((values != neutral).T) - np.eye(8)
    assert np.abs(together).max() < 0.05


def test_a_further_setting_changes_no_other_draw():
    some, more = (Distortions(rotate=10, probability=0.5, **further) for further in ({}, {"shift": 2}))
    assert np.array_equal(some.draw(SEEDS, 5)[..., 0], more.draw(SEEDS, 5)[..., 0])


@pytest.fixture(scope="module")
def glyphs():
    return (pictures(12, 20, 1, 9, 9, dtype=torch.float32) * 255).to(torch.uint8)


def few_shot(glyphs, distortions=None, **settings):
    given = {"train": glyphs, "validation": glyphs, "test": glyphs}
    return FewShot(given, ways=3, shots=2, queries=4, distortions=distortions, **settings)


def test_tasks_are_the_same_in_any_shard_and_only_their_own_splits_are_distorted(glyphs):
    plain, tasks = few_shot(glyphs), few_shot(glyphs, {"train": KOCH})
    seeds = np.arange(13)
    together = tasks.sample("train", seeds)
    for size in (1, 4, 5):
        parts = [tasks.sample("train", part) for part in np.split(seeds, range(size, 13, size))]
        assert torch.equal(torch.cat([part.support.x for part in parts]), together.support.x)
        assert torch.equal(torch.cat([part.query.x for part in parts]), together.query.x)
    assert torch.equal(plain.sample("train", seeds).info["examples"], together.info["examples"])
    assert not torch.equal(plain.sample("train", seeds).query.x, together.query.x)
    assert torch.equal(plain.sample("test", seeds).query.x, tasks.sample("test", seeds).query.x)


def test_pictures_of_one_task_are_distorted_each_by_itself(glyphs):
    same = glyphs[:, :1].expand(-1, 20, -1, -1, -1)
    tasks = few_shot(same, {"train": {"rotate": 90}})
    task = tasks.sample("train", SEEDS)
    shown = torch.cat([task.support.x[0, :2], task.query.x[0, :4]]).flatten(1)
    assert len(shown.unique(dim=0)) == 6


def test_a_pool_of_tasks_holds_their_distortions(glyphs):
    tasks = few_shot(glyphs, {"train": KOCH}, pool=4)
    one, again = tasks.sample("train", np.array([2])), tasks.sample("train", np.array([6]))
    assert torch.equal(one.query.x, again.query.x)


def test_fixed_distortions_of_test_drawings():
    settings = {"distortions": {"test": {"shear": {"x": [0.4, 0.4]}, "scale": [0.7, 0.7], "invert": True}}}
    plain, tasks = (Omniglot(validate(Omniglot.Config, given, "tasks")) for given in ({}, settings))
    one, other = plain.sample("test", SEEDS), tasks.sample("test", SEEDS)
    ink = 1 - other.query.x
    assert float(ink.min()) > -1e-6
    assert float(ink.mean() / one.query.x.mean()) == pytest.approx(0.7**2, rel=0.02)
    expected = by_hand(one.query.x[1, 2, 0].double().numpy(), [0, 0.4, 0, 0.7, 0.7, 0, 0, 1], False)
    assert np.allclose(other.query.x[1, 2, 0], expected, atol=1e-5)
    assert torch.equal(plain.sample("train", SEEDS).query.x, tasks.sample("train", SEEDS).query.x)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rotate": 10}, "distortions.rotate: expected settings below the split.*got 10"),
        ({"train": {"rotat": 10}}, "distortions.train.rotat: unknown key; did you mean 'rotate'"),
        ({"train": {"scale": 0.8}}, r"distortions.train.scale: expected \[low, high\].*got 0.8"),
        ({"train": {"scale": [0, 1]}}, "distortions.train.scale: expected factors above 0"),
        ({"train": {"shear": 1}}, "distortions.train.shear: expected numbers between -1 and 1"),
        ({"train": {"shift": {"z": 1}}}, r"distortions.train.shift: expected x, y or both, got \['z'\]"),
        ({"train": {"rotate": [20, 10]}}, r"distortions.train.rotate: expected \[low, high\]"),
    ],
)
def test_impossible_distortions_are_refused_by_their_place(given, words):
    with pytest.raises(ConfigError, match="tasks." + words):
        validate(Omniglot.Config, {"distortions": given}, "tasks")


def test_only_pictures_of_splits_that_exist_are_distorted(glyphs):
    with pytest.raises(ConfigError, match="needs pictures"):
        few_shot(glyphs.flatten(2), {"train": {"rotate": 10}})
    with pytest.raises(ConfigError, match="no split 'tests'; did you mean 'test'"):
        few_shot(glyphs, {"tests": {"rotate": 10}})
