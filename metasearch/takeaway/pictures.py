"""Pictures from files, as the tasks of a search had them: same size, same channels, same polarity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metasearch.core.errors import ArtifactError, DataError
from metasearch.core.registry import registry
from metasearch.tasks.image_folder import ENDINGS, read_picture

__all__ = ["inverted", "read_class_folders", "read_images"]


def inverted(config: Mapping[str, Any]) -> bool:
    """Whether the tasks of a search turn dark on light into light on dark, as far as its configuration says.

    Tasks of metasearch are known; those of a user are not imported for it and count as not inverted.
    """
    tasks = config.get("tasks")
    name = tasks.get("type") if isinstance(tasks, Mapping) else tasks
    known = registry("task")
    return isinstance(name, str) and name in known and bool(getattr(known.get(name), "inverted", False))


def read_images(
    files: str | Path | Iterable[str | Path], input_shape: tuple[int, ...], invert: bool
) -> NDArray[np.uint8]:
    """Pictures ``[n, *input_shape]`` in 256 levels: cut around the middle to the shape's proportions, then resized.

    Args:
        files: a picture; a folder, whose pictures are taken in the order of their names; or several pictures.
        input_shape: ``[channels, height, width]`` with one or three channels.
        invert: whether to turn dark into light.

    Raises:
        ArtifactError: if inputs of this shape are no pictures.
        DataError: if a file is no picture or is not there, or there is none.
    """
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise ArtifactError(
            f"this phi takes inputs of shape {list(input_shape)}, which are no pictures ([1 or 3, height, width]); "
            "make the arrays yourself"
        )
    channels, height, width = input_shape
    paths = _pictures(Path(files).expanduser()) if isinstance(files, str | Path) else [Path(one) for one in files]
    if not paths:
        raise DataError("expected at least one picture, got none")
    pixels = np.stack([read_picture(path, (height, width), channels == 3) for path in paths])
    return 255 - pixels if invert else pixels


def read_class_folders(
    folder: str | Path, input_shape: tuple[int, ...], invert: bool
) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    """Pictures as :func:`read_images` reads them, and the names of the folders they lie in, ``[n]``.

    Raises:
        DataError: if there are no folders in this one, or one of them holds no pictures.
        ArtifactError: see :func:`read_images`.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise DataError(
            f"no folder {str(folder)!r} (looked from {Path.cwd()}); give one that has a folder for each class"
        )
    classes = sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise DataError(f"{place} has no folders in it; expected one folder a class, with its pictures")
    pictures = [read_images(path, input_shape, invert) for path in classes]
    return np.concatenate(pictures), np.repeat([path.name for path in classes], [len(one) for one in pictures])


def _pictures(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
    if not found:
        raise DataError(f"{path} holds no pictures ({', '.join(sorted(ENDINGS))})")
    return found
