"""How well scores of pairs tell same from different."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["balanced_accuracy", "roc_auc"]


def balanced_accuracy(scores: Tensor, same: Tensor, threshold: float) -> Tensor:
    """``[T]``: the mean of the shares of same and of different pairs that are told right, ``same`` above a threshold.

    Args:
        scores: ``[T, P]``, larger for pairs that are more alike.
        same: ``[T, P]``, of bools, with pairs of both kinds in each task.
        threshold: of the scores.
    """
    right = ((scores > threshold) == same).to(torch.float64)
    return 0.5 * (_share(right, same) + _share(right, ~same))


def roc_auc(scores: Tensor, same: Tensor) -> Tensor:
    """``[T]``: the area under the ROC curve, which is the chance that a same pair scores higher than a different one.

    Equal scores count one half (Mann and Whitney's statistic, from mean ranks).

    Args:
        scores: ``[T, P]``, larger for pairs that are more alike.
        same: ``[T, P]``, of bools, with pairs of both kinds in each task.
    """
    ordered = scores.sort(-1).values
    ranks = [torch.searchsorted(ordered, scores.contiguous(), right=right).to(torch.float64) for right in (False, True)]
    mean_rank = 0.5 * (ranks[0] + ranks[1] + 1)
    positives = same.sum(-1).to(torch.float64)
    negatives = same.shape[-1] - positives
    return ((mean_rank * same).sum(-1) - 0.5 * positives * (positives + 1)) / (positives * negatives)


def _share(right: Tensor, chosen: Tensor) -> Tensor:
    return (right * chosen).sum(-1) / chosen.sum(-1)
