"""Reinforcement learning of choices: a policy proposes, L is its (negative) reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from metasearch.core.config import Config as BaseConfig
from metasearch.core.dimensions import Scalar
from metasearch.core.seeds import Draws, derive
from metasearch.core.values import Evaluation
from metasearch.searchers.choices import Choices, ChoiceSearcher
from metasearch.searchers.policies import Independent, Pick, PolicyNetwork, recorded

__all__ = ["Policy", "reinforce"]


class Policy(ChoiceSearcher[None]):
    """A policy over a finite space, improved by policy gradient; each told batch is one step.

    REINFORCE ascends the mean over a batch of ``(R - b) log p(choices) + entropy * H``, with the reward R = -L and b
    the moving average of the rewards before the batch (for the first batch: its own mean), by Adam.

    References: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
    learning"; Zoph and Le 2017, arXiv 1611.01578, section 3.2 (baseline). Deviation: the gradient is taken at the
    parameters of the time of telling, so with proposals in flight a reward may belong to a slightly older policy.

    A diverged evaluation has the reward ``floor`` or, without one, the worst finite reward so far (and teaches nothing
    while there is none). A failed evaluation teaches nothing. It may be joined with a gradient searcher: old rewards
    fade out of the baseline.
    """

    stationary = False

    class Config(BaseConfig):
        """Settings.

        Args:
            algorithm: how rewards change the policy.
            policy: the distribution; ``independent`` has one categorical a dimension.
            lr: step size of Adam on the policy's parameters.
            entropy: weight of the entropy bonus, in units of reward a nat; keeps the policy from settling early.
            baseline: decay of the moving average of rewards, a batch.
            floor: smallest reward; rewards below are raised to it. None for no bound.
            in_flight: proposals evaluated at once.
        """

        algorithm: Literal["reinforce"] = "reinforce"
        policy: Literal["independent"] = "independent"
        lr: float = Field(default=0.05, gt=0)
        entropy: float = Field(default=1e-3, ge=0)
        baseline: float = Field(default=0.9, ge=0, lt=1)
        floor: float | None = None
        in_flight: int = Field(default=1, ge=1)

    def __init__(self, config: Config) -> None:
        self.config = config
        self.in_flight = config.in_flight

    def begin(self) -> None:
        """Makes the policy.

        Raises:
            UnsupportedError: if a dimension has no short list of values.
        """
        self._policy: PolicyNetwork = _POLICIES[self.config.policy](self._space)
        self._optimizer = torch.optim.Adam(self._policy.parameters(), lr=self.config.lr, foreach=False)
        self._baseline: float | None = None
        self._worst: float | None = None

    def propose(self, n: int, first: int) -> list[tuple[Choices, None]]:
        with torch.no_grad():
            return [(self._policy.run(_drawn(derive(self._seed, "policy", first + i)))[0], None) for i in range(n)]

    def learn(self, told: Sequence[tuple[Evaluation, None]]) -> None:
        samples: list[tuple[Mapping[str, Any], float]] = []
        for evaluation, _ in told:
            reward = self._reward(evaluation)
            if reward is not None:
                samples.append((evaluation.proposal.choices, reward))
        if not samples:
            return
        mean = sum(reward for _, reward in samples) / len(samples)
        before = mean if self._baseline is None else self._baseline
        self._optimizer.zero_grad()
        loss = _ALGORITHMS[self.config.algorithm](
            self._policy, [(choices, reward - before) for choices, reward in samples], self.config.entropy
        )
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._baseline = self.config.baseline * before + (1 - self.config.baseline) * mean

    def _reward(self, evaluation: Evaluation) -> float | None:
        if evaluation.status == "failed":
            return None
        floor = -math.inf if self.config.floor is None else self.config.floor
        if evaluation.finite:
            reward = max(-evaluation.value, floor)
            self._worst = reward if self._worst is None else min(self._worst, reward)
            return reward
        return self._worst if self.config.floor is None else floor

    def probabilities(self) -> dict[str, dict[Scalar, float]]:
        """What the policy would now choose, by dimension and value, on the way that takes its likeliest values."""
        seen: dict[str, dict[Scalar, float]] = {}

        def look(name: str, values: list[Any], logs: Tensor) -> int:
            seen[name] = dict(zip(values, logs.exp().tolist(), strict=True))
            return int(logs.argmax())

        with torch.no_grad():
            self._policy.run(look)
        return seen


def reinforce(policy: PolicyNetwork, samples: Sequence[tuple[Mapping[str, Any], float]], entropy: float) -> Tensor:
    """Minus what the policy ascends: the mean of ``-(advantage * log p + entropy * H)`` over samples, a scalar."""
    terms = []
    for choices, advantage in samples:
        _, log_probability, spread = policy.run(recorded(choices))
        terms.append(-(advantage * log_probability + entropy * spread))
    return torch.stack(terms).mean()


_POLICIES = {"independent": Independent}
_ALGORITHMS = {"reinforce": reinforce}


def _drawn(seed: int) -> Pick:
    """The pick that samples: each dimension has its own stream, by its name."""

    def pick(name: str, values: list[Any], logs: Tensor) -> int:
        edges = np.cumsum(logs.exp().numpy())
        u = float(Draws([derive(seed, name)]).uniform(1)[0, 0])
        return min(int(np.searchsorted(edges, u * edges[-1], side="right")), len(values) - 1)

    return pick
