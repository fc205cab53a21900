"""Pictures of one's own, read as the tasks of a search read theirs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from metasearch.core.config import validate
from metasearch.core.errors import ArtifactError, DataError
from metasearch.core.values import TaskSpec
from metasearch.loaded import LoadedPhi, load
from metasearch.tasks.image_folder import ImageFolder
from metasearch.tasks.omniglot_data import SIZE, Drawings, _bundled
from metasearch.testing.phi import stored_phi


def learned(folder: Path, shape: tuple[int, ...], **tasks: Any) -> LoadedPhi:
    spec = TaskSpec("classification", shape, 3, 3, 6)
    return load(stored_phi(folder / "phi", spec=spec, config={"tasks": tasks} if tasks else None))


def drawn(folder: Path, classes: str = "ba", count: int = 3, mode: str = "RGB") -> Path:
    """Random pictures of 14 by 11 pixels, one folder a class."""
    draw = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for n in range(count):
            pixels = draw.integers(0, 256, (11, 14, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / name / f"{n}.png")
    return folder


def shown(tasks: Any, split: str) -> NDArray[np.uint8]:
    return np.asarray(tasks.examples(split)[0])


@pytest.mark.parametrize("color", [True, False])
def test_they_are_those_that_image_folder_makes_of_the_same_files(tmp_path: Path, color: bool) -> None:
    folder = drawn(tmp_path / "own")
    settings = {"type": "image_folder", "image_size": 6, "color": color}
    given = {**settings, "folder": str(folder), "fractions": [1.0, 0.0], "ways": 2, "queries": 1}
    given.pop("type")
    tasks = ImageFolder(validate(ImageFolder.Config, given, "tasks"))
    X, y = learned(tmp_path, (3 if color else 1, 6, 6), **settings).labelled_images(folder)
    assert np.array_equal(X, shown(tasks, "train"))
    assert y.tolist() == ["a"] * 3 + ["b"] * 3


def test_ink_on_paper_becomes_what_omniglot_had_in_the_search(tmp_path: Path) -> None:
    every = _bundled()
    one = Drawings(every.names[:1], every.packed[:1])
    files = [tmp_path / f"{n}.png" for n in range(3)]
    for file, ink in zip(files, one.pictures(SIZE)[0], strict=False):
        Image.fromarray(255 - ink).convert("1").save(file)
    X = learned(tmp_path, (1, 28, 28), type="omniglot").images(files)
    assert np.array_equal(X[:, 0], one.pictures(28)[0, :3])


def test_dark_and_light_are_the_callers_choice(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "own", "a")
    phi = learned(tmp_path, (1, 6, 6), type="omniglot")
    assert np.array_equal(phi.images(folder / "a", invert=False), 255 - phi.images(folder / "a"))
    assert np.array_equal(learned(tmp_path / "other", (1, 6, 6)).images(folder / "a"), 255 - phi.images(folder / "a"))
    foreign = learned(tmp_path / "third", (1, 6, 6), type="mine:Tasks")
    assert np.array_equal(foreign.images(folder / "a", invert=True), phi.images(folder / "a"))


def test_one_picture_a_folder_and_a_list_are_taken_and_other_proportions(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "own", "a")
    phi = learned(tmp_path, (3, 5, 10))
    every = phi.images(folder / "a")
    assert every.shape == (3, 3, 5, 10)
    assert np.array_equal(phi.images(folder / "a" / "1.png"), every[1:2])
    assert np.array_equal(phi.images([folder / "a" / "2.png", str(folder / "a" / "0.png")]), every[[2, 0]])


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    phi = learned(tmp_path, (1, 6, 6))
    (tmp_path / "empty" / "a").mkdir(parents=True)
    (tmp_path / "x.png").write_bytes(b"no picture")
    for act, message in (
        (lambda: phi.images(tmp_path / "nothing.png"), r"cannot read .*nothing\.png"),
        (lambda: phi.images(tmp_path / "x.png"), r"cannot read .*x\.png"),
        (lambda: phi.images([]), "at least one picture"),
        (lambda: phi.labelled_images(tmp_path / "empty"), r"empty/a holds no pictures \(\.bmp"),
        (lambda: phi.labelled_images(tmp_path / "empty" / "a"), "no folders in it; expected one folder a class"),
        (lambda: phi.labelled_images(tmp_path / "nowhere"), "no folder .*nowhere"),
    ):
        with pytest.raises(DataError, match=message):
            act()
    with pytest.raises(ArtifactError, match=r"inputs of shape \[4\], which are no pictures \(\[1 or 3, height, width"):
        learned(tmp_path / "other", (4,)).images(tmp_path / "x.png")
