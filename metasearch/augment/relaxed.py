"""A policy with a gradient: choices of operations as softmaxes, probabilities and levels as sigmoids.

The image of a place is x + c (op_i(x) - x), where i is drawn by the Gumbel-max trick, c is 1 if the operation is
carried out and else 0, and the derivative of c is that of w_i b_i: of the softmax w of logits and Gumbel noise (Jang,
Gu, Poole 2017, arXiv:1611.01144) and of the relaxed coin b (Maddison, Mnih, Teh 2017, arXiv:1611.00712), both at a
temperature. So what is done to an image is exactly a draw from the policy, and only one operation an image is computed.
Levels have the derivatives of the operations themselves.

DADA (Li et al. 2020, arXiv:2003.03780) relaxes policies so; it takes the estimator RELAX, with a learned control
variate, where this takes the straight-through one, and measures everything from the image as it was: the weights' sum
is constant, so that changes no exact gradient and lowers the variance.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasearch.augment.apply import Place, transform
from metasearch.augment.policy import Policy, default_fill, numbers_of
from metasearch.core.seeds import Draws
from metasearch.core.values import Tensors

__all__ = ["Relaxed"]


class Relaxed:
    """Sub-policies that images get equally often; each place has a distribution over operations.

    Args:
        operations: names.
        count: sub-policies.
        places: operations in each, one after the other.
        temperature: of softmax and coins; lower is nearer to the draws, with gradients of more variance.
        hard: whether a place is one drawn operation with a straight-through derivative, as above; else it is the
            weighted mean of all operations, whose derivative is exact (and which is another function).
        fill: as for :class:`~metasearch.augment.policy.Policy`.
    """

    def __init__(
        self,
        operations: tuple[str, ...],
        count: int,
        places: int,
        temperature: float = 0.5,
        hard: bool = True,
        fill: float | None = None,
    ) -> None:
        self.operations = operations
        self.numbers = numbers_of(operations)
        self.shape = (count, places, len(operations))
        self.temperature = temperature
        self.hard = hard
        self.fill = fill

    def init(self, probability: float, level: float, spread: float, seed: int) -> Tensors:
        """Logits ``[count, places, operations]``: ``operation``, ``probability`` and ``level``.

        Args:
            probability: where all of them start, inside of (0, 1).
            level: where all of them start, inside of (0, 1).
            spread: standard deviation of the first logits of operations: equal sub-policies would stay equal.
            seed: of these.
        """
        size = int(np.prod(self.shape))
        noise = torch.from_numpy(spread * Draws([seed], "relaxed").normal(size).reshape(self.shape)).to(torch.float32)
        return {
            "operation": noise,
            "probability": torch.full(self.shape, _logit(probability)),
            "level": torch.full(self.shape, _logit(level)),
        }

    def policy(self, values: Tensors) -> Policy:
        """The policy that is drawn from, without a gradient."""
        given = {name: value.detach().cpu().to(torch.float64) for name, value in values.items()}
        weight = torch.softmax(given["operation"], -1).numpy()[None]
        probability, level = (torch.sigmoid(given[name]).numpy()[None] for name in ("probability", "level"))
        return Policy(self.operations, weight, probability, level, level, self.fill)

    def __call__(self, values: Tensors, x: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Images ``[T, n, C, H, W]`` in [0, 1] after the policy, with a derivative in ``values``.

        Args:
            values: see :meth:`init`.
            x: images.
            seeds: ``[T]``; each task draws from its own.
        """
        count, places, operations = self.shape
        n, flat = x.shape[1], x.flatten(0, 1)
        width = 1 + places * (2 * operations + 3)
        unit = Draws(seeds, "relaxed augmentation").uniform(n * width).reshape(-1, width)
        chosen = torch.from_numpy(np.minimum((unit[:, 0] * count).astype(np.int64), count - 1)).to(x.device)
        fill = default_fill(self.fill, x.shape[-3])
        for k in range(places):
            own = unit[:, 1 + k * (2 * operations + 3) : 1 + (k + 1) * (2 * operations + 3)]
            noise = _open(own[:, :operations])
            gumbel = self._tensor(-np.log(-np.log(noise)), x)
            coin = _open(own[:, operations : 2 * operations])
            logistic = self._tensor(np.log(coin) - np.log1p(-coin), x)
            scores = (values["operation"][:, k][chosen] + gumbel) / self.temperature
            weights = torch.softmax(scores, -1)
            coins = torch.sigmoid((values["probability"][:, k][chosen] + logistic) / self.temperature)
            levels = torch.sigmoid(values["level"][:, k])[chosen]
            sign = self._tensor(np.where(own[:, -3] < 0.5, -1.0, 1.0), x)
            step = self._one if self.hard else self._mean
            flat = step(flat, scores, weights, coins, levels, sign, own[:, -2:], n, fill)
        return flat.reshape(x.shape)

    def _one(
        self,
        x: Tensor,
        scores: Tensor,
        weights: Tensor,
        coins: Tensor,
        levels: Tensor,
        sign: Tensor,
        where: NDArray[np.float64],
        group: int,
        fill: float,
    ) -> Tensor:
        picked = scores.detach().argmax(-1, keepdim=True)
        weight, coin, level = (one.gather(1, picked)[:, 0] for one in (weights, coins, levels))
        done = (coin.detach() > 0.5).to(x.dtype)
        operation = self.numbers[picked[:, 0].cpu().numpy()]
        moving = weight.requires_grad or coin.requires_grad
        if not moving:
            operation = np.where(done.cpu().numpy() > 0.0, operation, -1)
            return transform(Place(operation, level, sign, where), x, group, fill)
        after = transform(Place(operation, level, sign, where), x, group, fill)
        share = (1 + weight - weight.detach()) * (done + coin - coin.detach())
        return x + share[:, None, None, None] * (after - x)

    def _mean(
        self,
        x: Tensor,
        scores: Tensor,
        weights: Tensor,
        coins: Tensor,
        levels: Tensor,
        sign: Tensor,
        where: NDArray[np.float64],
        group: int,
        fill: float,
    ) -> Tensor:
        shares = weights * coins
        total = torch.zeros_like(x)
        for o, number in enumerate(self.numbers):
            place = Place(np.full(len(x), number), levels[:, o], sign, where)
            total = total + shares[:, o, None, None, None] * (transform(place, x, group, fill) - x)
        return x + total

    @staticmethod
    def _tensor(values: NDArray[np.float64], like: Tensor) -> Tensor:
        return torch.from_numpy(values).to(like.device, like.dtype)


def _open(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Uniform numbers, kept off 0 and 1 so that their logarithms are finite in single precision, too."""
    return unit.clip(1e-7, 1 - 1e-7)


def _logit(share: float) -> float:
    return float(np.log(share) - np.log1p(-share))
