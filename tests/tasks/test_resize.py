import numpy as np
import pytest
from PIL import Image

from metasearch.tasks.resize import lanczos_weights, shrink_ink


def blobs(n, size):
    """Drawings with strokes: a thick random walk each."""
    random = np.random.default_rng(7)
    ink = np.zeros((n, size, size), dtype=np.uint8)
    for drawing in ink:
        row, column = size // 2, size // 2
        for step in random.integers(-2, 3, size=(4 * size, 2)):
            row, column = np.clip(np.add([row, column], step), 1, size - 2)
            drawing[row - 1 : row + 2, column - 1 : column + 2] = 1
    return ink


@pytest.mark.parametrize(("size", "new_size"), [(105, 28), (105, 20), (105, 84), (105, 7), (40, 64)])
def test_pictures_equal_those_of_pillow_bit_for_bit(size, new_size):
    ink = blobs(12, size)
    expected = [
        255
        - np.asarray(
            Image.fromarray((1 - drawing) * np.uint8(255)).resize((new_size, new_size), Image.Resampling.LANCZOS)
        )
        for drawing in ink
    ]
    assert np.array_equal(shrink_ink(ink, new_size), expected)


def test_the_same_size_only_changes_levels():
    ink = blobs(3, 16)
    assert np.array_equal(shrink_ink(ink, 16), ink * 255)


def test_weights_stay_within_what_float32_holds_exactly():
    weights = lanczos_weights(105, 28)
    assert np.abs(weights).sum(axis=0).max() < 2**24
    assert (255 * (np.abs(weights) % 2**11)).sum(axis=0).max() < 2**24
    assert np.abs(weights.sum(axis=0) - 2**22).max() <= 12
