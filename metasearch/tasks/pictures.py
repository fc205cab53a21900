"""Pictures of tasks, for reports."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasearch.core.values import Task

__all__ = ["contact_sheet"]

_GAP = 2
_PAPER = 255


def contact_sheet(task: Task, index: int = 0, queries: int = 5) -> NDArray[np.uint8]:
    """One task of a group as one picture: a row for each label, its support examples on the left, queries on the right.

    Args:
        task: classification tasks with inputs ``[T, n, channels, height, width]`` in [0, 1], as many of each label.
        index: which task of the group.
        queries: how many queries of each label to show at most.

    Returns:
        ``[rows, columns]`` uint8 for one channel, which is shown dark on light (1 is black);
        ``[rows, columns, channels]`` for more, shown as they are.
    """
    support, query = (_grid(batch.x[index], batch.y[index]) for batch in (task.support, task.query))
    sides = [support, query[:, :queries]]
    columns = [side[:, i] for side in sides for i in range(side.shape[1])]
    labels, channels, height, width = columns[0].shape
    shots = sides[0].shape[1]
    sheet = torch.zeros(channels, labels * (height + _GAP) - _GAP, len(columns) * (width + _GAP) + _GAP)
    if channels > 1:
        sheet += 1.0
    for i, column in enumerate(columns):
        left = i * (width + _GAP) + (2 * _GAP if i >= shots else 0)
        for label in range(labels):
            top = label * (height + _GAP)
            sheet[:, top : top + height, left : left + width] = column[label]
    levels = (sheet.clamp(0.0, 1.0) * _PAPER).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = levels.permute(1, 2, 0).numpy()
    return _PAPER - pixels[:, :, 0] if channels == 1 else pixels


def _grid(x: Tensor, y: Tensor) -> Tensor:
    """``[labels, examples, channels, height, width]`` on the CPU."""
    order = torch.argsort(y.cpu(), stable=True)
    return x.detach().cpu().float()[order].reshape(int(y.max()) + 1, -1, *x.shape[1:])
