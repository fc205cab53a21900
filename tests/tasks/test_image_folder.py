import itertools
from pathlib import Path

import numpy as np
import pytest
from made_pictures import cifar100, colour, first_pixels, mini_imagenet, picture_folder
from PIL import Image

from metasearch.core.config import validate
from metasearch.core.errors import ConfigError, DataError
from metasearch.tasks.cifar_fs import TEST, VALIDATION, CifarFS
from metasearch.tasks.image_folder import ImageFolder, read_picture
from metasearch.tasks.mini_imagenet import MiniImagenet

SMALL = {"ways": 2, "shots": 1, "queries": 2}


def made(part, **settings):
    return part(validate(part.Config, {**SMALL, **settings}, "tasks"))


def wanted(task, index, first=0):
    """The colours of a task's support pictures, one shot a class."""
    pairs = zip(task.info["classes"][index].tolist(), task.info["examples"][index].tolist(), strict=True)
    return [colour(first + k, n[0]) for k, n in pairs]


def test_folders_of_splits_are_taken_as_they_are(tmp_path):
    for split, classes in (("train", "abc"), ("val", "de"), ("test", "fg")):
        picture_folder(tmp_path / split, dict.fromkeys(classes, 4))
    tasks = made(ImageFolder, folder=str(tmp_path), image_size=8)
    names = [tasks.class_names(split) for split in ("train", "validation", "test")]
    assert names == [["a", "b", "c"], ["d", "e"], ["f", "g"]]
    task = tasks.sample("train", np.arange(5))
    assert task.support.x.shape == (5, 2, 3, 8, 8)
    for index in range(5):
        shown = first_pixels(task.support.x[index])
        wanted = [
            colour(k, n[0]) for k, n in zip(task.info["classes"][index], task.info["examples"][index], strict=True)
        ]
        assert shown == [[int(one) for one in pixel] for pixel in wanted]


def test_one_folder_a_class_is_divided_by_its_fractions(tmp_path):
    picture_folder(tmp_path / "all", {f"c{index}": 3 for index in range(10)})
    settings = {"folder": str(tmp_path / "all"), "image_size": 4, "fractions": [0.5, 0.2]}
    tasks = made(ImageFolder, **settings)
    names = {split: tasks.class_names(split) for split in ("train", "validation", "test")}
    assert [len(one) for one in names.values()] == [5, 2, 3]
    assert sorted(itertools.chain(*names.values())) == [f"c{index}" for index in range(10)]
    assert made(ImageFolder, **settings).class_names("train") == names["train"]
    assert made(ImageFolder, **settings, split_seed=1).class_names("train") != names["train"]


def test_pictures_are_cut_around_the_middle_and_may_be_grey(tmp_path):
    pixels = np.zeros((10, 20, 3), dtype=np.uint8)
    pixels[:, 5:15] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert read_picture(tmp_path / "wide.png", 10, True).shape == (3, 10, 10)
    assert (read_picture(tmp_path / "wide.png", 10, True) == 200).all()
    assert (read_picture(tmp_path / "wide.png", 10, False) == 200).all()
    assert read_picture(tmp_path / "wide.png", 5, False).shape == (1, 5, 5)


def test_classes_may_have_different_numbers_of_pictures(tmp_path):
    picture_folder(tmp_path / "train", {"a": 3, "b": 7})
    tasks = made(ImageFolder, folder=str(tmp_path), image_size=4)
    assert len(tasks.examples("train")[1]) == 10


def test_unusable_folders_say_what_was_expected(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        made(ImageFolder, folder=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="expected one folder a class"):
        made(ImageFolder, folder=str(tmp_path))
    (tmp_path / "empty" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no pictures"):
        made(ImageFolder, folder=str(tmp_path / "empty"), fractions=[1.0, 0.0])
    (tmp_path / "broken" / "a").mkdir(parents=True)
    (tmp_path / "broken" / "a" / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cannot read .*x\.png"):
        made(ImageFolder, folder=str(tmp_path / "broken"), fractions=[1.0, 0.0])
    picture_folder(tmp_path / "few", {"a": 2, "b": 2})
    with pytest.raises(ConfigError, match="need 3 examples of each class"):
        made(ImageFolder, folder=str(tmp_path / "few"), fractions=[1.0, 0.0])
    with pytest.raises(ConfigError, match="fractions: expected shares"):
        made(ImageFolder, folder=str(tmp_path / "few"), fractions=[0.9, 0.2])


def test_mini_imagenet_is_read_by_its_lists(tmp_path):
    folder = mini_imagenet(tmp_path / "mini")
    tasks = made(MiniImagenet, folder=str(folder), image_size=16, complete=False)
    assert [tasks.n_classes(split) for split in ("train", "validation", "test")] == [3, 3, 3]
    assert tasks.class_names("test") == ["n00000020", "n00000021", "n00000022"]
    task = tasks.sample("test", np.arange(3))
    assert task.query.x.shape == (3, 4, 3, 16, 16)
    shown = first_pixels(task.support.x[0])
    wanted = [
        colour(20 + int(k), int(n[0])) for k, n in zip(task.info["classes"][0], task.info["examples"][0], strict=True)
    ]
    assert np.abs(np.array(shown) - np.array(wanted)).max() <= 4  # JPEG


def test_an_incomplete_mini_imagenet_is_refused(tmp_path):
    folder = mini_imagenet(tmp_path / "mini")
    with pytest.raises(DataError, match=r"3 train classes of 4 pictures.*expected 64 train classes of 600 pictures"):
        made(MiniImagenet, folder=str(folder))
    (folder / "val.csv").unlink()
    with pytest.raises(DataError, match=r"val\.csv cannot be read.*Ravi and Larochelle"):
        made(MiniImagenet, folder=str(folder), complete=False)


def test_cifar_fs_divides_the_classes_of_cifar_100_as_published(tmp_path):
    tasks = made(CifarFS, folder=str(cifar100(tmp_path / "cifar100")))
    assert set(tasks.class_names("validation")) == VALIDATION
    assert set(tasks.class_names("test")) == TEST
    assert [tasks.n_classes(split) for split in ("train", "validation", "test")] == [64, 16, 20]
    names = sorted([*VALIDATION, *TEST, *(f"class_{index:02d}" for index in range(64))])
    task = tasks.sample("test", np.arange(4))
    assert task.support.x.shape == (4, 2, 3, 32, 32)
    for index in range(4):
        labels = [names.index(tasks.class_names("test")[k]) for k in task.info["classes"][index]]
        picks = task.info["examples"][index][:, 0].tolist()
        assert first_pixels(task.support.x[index]) == [[k, n, k] for k, n in zip(labels, picks, strict=True)]


def test_a_missing_or_foreign_archive_is_refused(tmp_path):
    with pytest.raises(DataError, match="'cifar100' was not found"):
        made(CifarFS, folder=str(tmp_path))
    Path(tmp_path / "cifar-100-binary.tar.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match="expected CIFAR-100's binary version"):
        made(CifarFS, folder=str(tmp_path))
