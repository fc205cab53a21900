"""Small picture data sets, made for tests: folders of a user's own, miniImageNet's layout, CIFAR-100's archive."""

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from metasearch.tasks.cifar_fs import TEST, VALIDATION


def colour(index: int, n: int) -> tuple[int, int, int]:
    """A colour of its own for each class, a little of its own for each picture."""
    return (10 * index % 256, 5 + n, 255 - 10 * index % 256)


def picture_folder(folder: Path, classes: dict[str, int], size: tuple[int, int] = (12, 10)) -> Path:
    """``folder/<class>/<n>.png`` of one colour each."""
    for index, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for n in range(count):
            Image.new("RGB", size, colour(index, n)).save(folder / name / f"{n:02d}.png")
    return folder


def mini_imagenet(folder: Path, ways: int = 3, count: int = 4) -> Path:
    """The lists and pictures of a small part."""
    (folder / "images").mkdir(parents=True)
    for split, start in (("train", 0), ("val", 10), ("test", 20)):
        with (folder / f"{split}.csv").open("w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(["filename", "label"])
            for index in range(start, start + ways):
                for n in range(count):
                    name = f"n{index:08d}{n:08d}.jpg"
                    Image.new("RGB", (20, 16), colour(index, n)).save(folder / "images" / name, quality=95)
                    rows.writerow([name, f"n{index:08d}"])
    return folder


def cifar100(folder: Path, train: int = 3, test: int = 2) -> Path:
    """An archive with CIFAR-100's classes and few pictures; all pixels of picture n of class k are (k, n, k)."""
    folder.mkdir(parents=True)
    names = sorted([*VALIDATION, *TEST, *(f"class_{index:02d}" for index in range(64))])
    records = {
        name: b"".join(
            bytes([0, k]) + bytes([k]) * 1024 + bytes([n]) * 1024 + bytes([k]) * 1024
            for n in numbers
            for k in range(len(names))
        )
        for name, numbers in (("train.bin", range(train)), ("test.bin", range(train, train + test)))
    }
    with tarfile.open(folder / "cifar-100-binary.tar.gz", "w:gz") as archive:
        for name, content in {**records, "fine_label_names.txt": "\n".join(names).encode() + b"\n"}.items():
            info = tarfile.TarInfo(f"cifar-100-binary/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return folder


def first_pixels(pictures: np.ndarray) -> list[list[int]]:
    """The first pixel of each picture ``[n, channels, ...]``, in 256 levels."""
    return np.rint(np.asarray(pictures)[:, :, 0, 0] * 255).astype(int).tolist()


def cifar10(folder: Path, train: int = 36, test: int = 12) -> Path:
    """CIFAR-10's archive with few pictures: i has the label i mod 10, red i, green its row and blue its column."""
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, count in (("data_batch_1", train), ("test_batch", test)):
            numbers = np.arange(count, dtype=np.uint8)
            records = np.zeros((count, 3073), np.uint8)
            records[:, 0] = numbers % 10
            pixels = records[:, 1:].reshape(count, 3, 32, 32)
            pixels[:, 0] = numbers[:, None, None]
            pixels[:, 1] = np.arange(32)[:, None]
            pixels[:, 2] = np.arange(32)
            records[:, 1:] = pixels.reshape(count, -1)
            content = records.tobytes()
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return folder
