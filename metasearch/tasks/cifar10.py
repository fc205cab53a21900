"""Training a network on CIFAR-10 as a task, from the official archive of its binary version."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from metasearch.core.config import Config as BaseConfig
from metasearch.tasks import cifar10_data
from metasearch.tasks.settings import PerSplit, per_split
from metasearch.tasks.training import TrainingTasks

__all__ = ["Cifar10"]


class Cifar10(TrainingTasks):
    """A task is a fresh training run (:class:`~metasearch.tasks.training.TrainingTasks`).

    The support set is what is trained on: the training pictures but for the last sixth of them, or some of those. The
    query set are others: of that sixth in the splits train and validation, test pictures in the split test. Pictures
    are ``[T, n, 3, 32, 32]`` in [0, 1], labels ``[T, n]``.

    Which archives are taken: :func:`metasearch.tasks.cifar10_data.read`.

    Settings (``Config``):
        pool: pictures of a support set, drawn for each task; None means all, of which no copy is made.
        queries: query pictures, a number or one for each split.
        folder: where ``cifar-10-binary.tar.gz`` lies; None looks where all data sets are looked for.

    Raises:
        DataError: if the archive is nowhere, with what to do, or is no archive of CIFAR-10's binary version.
        ConfigError: if there are fewer pictures than are asked for.
    """

    class Config(BaseConfig):
        """See :class:`Cifar10`."""

        pool: int | None = Field(default=None, ge=1)
        queries: PerSplit = per_split(500)
        folder: str | None = None

    def __init__(self, config: Config, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        train, test = cifar10_data.read(config.folder)

        def placed(arrays: cifar10_data.Arrays) -> tuple[Tensor, Tensor]:
            pixels, labels = (torch.from_numpy(one.copy()) for one in arrays)
            return pixels.to(device, dtype).mul_(1 / 255), labels.to(device)

        x, y = placed(train)
        last = len(x) - len(x) // 6
        held = x[last:], y[last:]
        query = {"train": held, "validation": held, "test": placed(test)}
        super().__init__("cifar10", (x[:last], y[:last]), query, config)
