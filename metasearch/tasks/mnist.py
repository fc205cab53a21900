"""Training a network on MNIST as a task."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.config import Config as BaseConfig
from metasearch.tasks import datasets
from metasearch.tasks.idx import read_idx
from metasearch.tasks.settings import PerSplit, per_split
from metasearch.tasks.training import TrainingTasks

__all__ = ["Mnist"]


class Mnist(TrainingTasks):
    """A task is a fresh training run (:class:`~metasearch.tasks.training.TrainingTasks`).

    The support set is what is trained on, the first 50,000 training images or some of them; a learner's ``batch``
    draws from it for each step. The query set are other images: of the last 10,000 training images in the splits train
    and validation, of the official test images in the split test.

    Settings (``Config``):
        pool: images of a support set, drawn for each task; None means all 50,000, of which no copy is made.
        queries: query images, a number or one for each split.
        size: side of an image in pixels; less than 28 takes means over squares of pixels.
        folder: where the four files lie; None looks where all data sets are looked for.

    Images are ``[T, n, 1, size, size]`` in [0, 1], labels ``[T, n]``.

    Raises:
        DataError: if the files are nowhere, with what to do.
        ConfigError: if there are fewer images than are asked for.
    """

    class Config(BaseConfig):
        """See :class:`Mnist`."""

        pool: int | None = Field(default=None, ge=1)
        queries: PerSplit = per_split(500)
        size: Literal[28, 14, 7, 4] = 28
        folder: str | None = None

    def __init__(self, config: Config, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        folder = datasets.get("mnist", config.folder)

        def load(name: str) -> tuple[Tensor, Tensor]:
            images = torch.from_numpy(read_idx(folder / f"{name}-images-idx3-ubyte.gz").copy())
            labels = torch.from_numpy(read_idx(folder / f"{name}-labels-idx1-ubyte.gz").astype(np.int64))
            images = images.to(device, dtype).mul_(1 / 255).unsqueeze(1)
            return F.avg_pool2d(images, 28 // config.size) if config.size < 28 else images, labels.to(device)

        x, y = load("train")
        last = len(x) - len(x) // 6
        held = x[last:], y[last:]
        super().__init__(
            "mnist", (x[:last], y[:last]), {"train": held, "validation": held, "test": load("t10k")}, config
        )
