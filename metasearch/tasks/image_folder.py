"""Few-shot tasks from a folder of pictures: one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError, DataError
from metasearch.core.seeds import Draws, derive
from metasearch.tasks.base import FewShot
from metasearch.tasks.distortions import SplitDistortions
from metasearch.tasks.settings import SPLITS, PerSplit, PerSplitOrNone, TrainOn, joined, per_split

__all__ = ["ImageFolder", "read_picture"]

ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
SPELLINGS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


class ImageFolder(FewShot):
    """N-way K-shot tasks from pictures of one's own.

    The folder holds either ``train``, ``validation`` (or ``val``) and ``test``, each with a folder a class; or a folder
    a class, and classes are then divided by ``fractions``. Classes and pictures are taken in the order of their names.

    Pictures are ``[channels, image_size, image_size]`` in [0, 1]: cut to a square around the middle, then resized
    (Lanczos). All are read at the start and kept as bytes.

    Settings (``Config``):
        folder: where the pictures are.
        image_size: side of a picture in pixels.
        color: three channels, or one.
        ways, shots, queries: a number or one for each split; ``shots`` and ``queries`` count pictures of one class.
        unlabelled, distractors: unlabelled examples of each class, and classes of which there are no others
            (:class:`~metasearch.tasks.base.FewShot`).
        pool: number of different training tasks; None for no limit.
        distortions: of the pictures, by split (:class:`~metasearch.tasks.distortions.Distortions`).
        train_on: splits whose classes are trained on: with ``[train, validation]`` both together, and there is no
            validation split.
        fractions: shares of the classes for training and validation, where the folder has no splits.
        split_seed: draws that division.

    Raises:
        DataError: if there is no such folder, no class in it, an empty class, or a picture that cannot be read.
        ConfigError: if a split has too few classes for ``ways``, or a class too few pictures.
    """

    class Config(BaseConfig):
        """See :class:`ImageFolder`."""

        folder: str
        image_size: int = Field(default=84, ge=1)
        color: bool = True
        ways: PerSplit = per_split(5)
        shots: PerSplit = per_split(1)
        queries: PerSplit = per_split(15)
        unlabelled: PerSplitOrNone = per_split(0, 0)
        distractors: PerSplitOrNone = per_split(0, 0)
        pool: int | None = Field(default=None, ge=1)
        distortions: SplitDistortions = Field(default_factory=dict)
        train_on: TrainOn = ("train",)
        fractions: tuple[float, float] = (0.64, 0.16)
        split_seed: int = 0

    def __init__(self, config: Config, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.config = config
        classes = joined(_classes(Path(config.folder).expanduser(), config), config.train_on)
        super().__init__(
            {
                split: [_read(path, config.image_size, config.color) for path in paths]
                for split, paths in classes.items()
            },
            ways=config.ways,
            shots=config.shots,
            queries=config.queries,
            unlabelled=config.unlabelled,
            distractors=config.distractors,
            pool=config.pool,
            distortions=config.distortions,
            names={split: [path.name for path in paths] for split, paths in classes.items()},
            device=device,
            dtype=dtype,
        )


def read_picture(path: Path, size: int | tuple[int, int], color: bool) -> NDArray[np.uint8]:
    """A picture ``[channels, height, width]``, cut to these proportions around the middle and resized.

    Args:
        path: the file.
        size: of a square, or height and width.
        color: three channels, or one.

    Raises:
        DataError: if it cannot be read.
    """
    height, width = (size, size) if isinstance(size, int) else size
    try:
        with Image.open(path) as image:
            turned = ImageOps.exif_transpose(image).convert("RGB" if color else "L")
            pixels = np.asarray(ImageOps.fit(turned, (width, height), Image.Resampling.LANCZOS))
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"cannot read {path}: {error}; remove it, or save it as PNG or JPEG") from error
    return np.ascontiguousarray(pixels.reshape(height, width, -1).transpose(2, 0, 1))


@lru_cache(maxsize=4096)
def _read(folder: Path, size: int, color: bool) -> NDArray[np.uint8]:
    """All pictures of a class, ``[n, channels, size, size]``."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    if not paths:
        raise DataError(f"{folder} holds no pictures ({', '.join(sorted(ENDINGS))}); remove the folder or fill it")
    return np.stack([read_picture(path, size, color) for path in paths])


def _classes(folder: Path, config: ImageFolder.Config) -> dict[str, list[Path]]:
    """The folders of each split's classes."""
    if not folder.is_dir():
        raise DataError(f"no folder {str(folder)!r} (looked from {Path.cwd()}); give the folder of the pictures")
    below = _folders(folder)
    found = {split: [path for path in below if path.name in SPELLINGS[split]] for split in SPLITS}
    if found["train"]:
        splits = {split: _folders(paths[0]) for split, paths in found.items() if paths}
        empty = [split for split, paths in splits.items() if not paths]
        if empty:
            raise DataError(f"{folder} has no class folders in {', '.join(empty)}; expected one folder a class")
        return splits
    if not below:
        raise DataError(f"{folder} has no folders in it; expected one folder a class, or train, validation and test")
    return _divided(below, config)


def _divided(classes: Sequence[Path], config: ImageFolder.Config) -> dict[str, list[Path]]:
    train, validation = config.fractions
    if not (train > 0.0 <= validation and train + validation <= 1.0):
        raise ConfigError(
            "fractions",
            f"expected shares of training (above 0) and validation, 1 at most together, got {[*config.fractions]}",
        )
    order = Draws([derive(config.split_seed, "image_folder", "classes")]).permutation(len(classes))[0]
    first, second = round(train * len(classes)), round((train + validation) * len(classes))
    parts = {"train": order[:first], "validation": order[first:second], "test": order[second:]}
    return {split: [classes[i] for i in sorted(part)] for split, part in parts.items() if len(part)}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
