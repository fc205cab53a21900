"""Training a network on MNIST as a task: what learned optimizers practise on."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError
from metasearch.core.seeds import Draws
from metasearch.core.values import Batch, Task, TaskSpec
from metasearch.tasks import datasets
from metasearch.tasks.idx import read_idx
from metasearch.tasks.settings import SPLITS, PerSplit, at_split, check_split, per_split

__all__ = ["Mnist"]


class Mnist:
    """A task is a fresh training run: its seed fixes the images at hand, and (in the learner) the first weights and the
    order of minibatches.

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
        self.config = config
        folder = datasets.get("mnist", config.folder)

        def load(name: str) -> tuple[Tensor, Tensor]:
            images = torch.from_numpy(read_idx(folder / f"{name}-images-idx3-ubyte.gz").copy())
            labels = torch.from_numpy(read_idx(folder / f"{name}-labels-idx1-ubyte.gz").astype(np.int64))
            images = images.to(device, dtype).mul_(1 / 255).unsqueeze(1)
            return F.avg_pool2d(images, 28 // config.size) if config.size < 28 else images, labels.to(device)

        x, y = load("train")
        last = len(x) - len(x) // 6
        self._support = x[:last], y[:last]
        held = x[last:], y[last:]
        self._query = {"train": held, "validation": held, "test": load("t10k")}
        if config.pool is not None and config.pool > last:
            raise ConfigError("pool", f"expected at most {last} images to train on, got {config.pool}")
        for split, (images, _) in self._query.items():
            if at_split(config.queries, split) > len(images):
                raise ConfigError("queries", f"split {split!r} has {len(images)} images; ask for at most that many")

    def spec(self, split: str) -> TaskSpec:
        """Shapes of a split's tasks.

        Raises:
            ConfigError: if the split is not one of train, validation and test.
        """
        check_split(split, SPLITS)
        support = self.config.pool or len(self._support[0])
        return TaskSpec(
            "classification", (1, self.config.size, self.config.size), 10, support, at_split(self.config.queries, split)
        )

    def sample(self, split: str, seeds: NDArray[np.int64]) -> Task:
        """One task a seed.

        Raises:
            ConfigError: if the split is not one of train, validation and test.
        """
        spec = self.spec(split)
        seeds = np.asarray(seeds, dtype=np.int64).reshape(-1)
        return Task(
            support=_drawn(self._support, seeds, f"mnist/{split}/support", self.config.pool),
            query=_drawn(self._query[split], seeds, f"mnist/{split}/query", spec.query),
            seeds=seeds,
        )


def _drawn(images: tuple[Tensor, Tensor], seeds: NDArray[np.int64], purpose: str, n: int | None) -> Batch:
    """Different images for each task, or all of them as a view that every task shares."""
    x, y = images
    if n is None:
        return Batch(x.expand(len(seeds), *x.shape), y.expand(len(seeds), -1))
    index = torch.from_numpy(Draws(seeds, purpose).choose(len(x), n)).to(x.device)
    return Batch(x[index], y[index])
