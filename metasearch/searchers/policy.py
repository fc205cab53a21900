"""Reinforcement learning of choices: a policy proposes, L is its (negative) reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from metasearch.core.config import Config as BaseConfig
from metasearch.core.dimensions import Scalar
from metasearch.core.errors import ConfigError
from metasearch.core.seeds import Draws, derive
from metasearch.core.values import Evaluation
from metasearch.searchers.choices import Choices, ChoiceSearcher
from metasearch.searchers.policies import LSTM, Independent, PolicyNetwork

__all__ = ["Policy", "ppo", "reinforce"]


class Policy(ChoiceSearcher[float]):
    """A policy over a finite space, improved by policy gradient.

    An update takes all evaluations that were told since the last one, at least ``batch``. The advantage of each is
    A = R - b, with the reward R = -L and b the moving average of the rewards before the update (for the first one: its
    own mean). REINFORCE makes one step of Adam along the mean of ``A log p(choices) + entropy * H``; PPO makes
    ``epochs`` steps along that of ``min(r A, clip(r, 1 - clip, 1 + clip) A) + entropy * H``, with r the probability of
    the choices over what it was when they were proposed.

    References: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
    learning"; Zoph and Le 2017, arXiv 1611.01578, section 3.2 (baseline); Schulman et al. 2017, arXiv 1707.06347,
    equation 7. Deviations: REINFORCE takes the gradient at the parameters of the time of telling, so with proposals in
    flight a reward may belong to a slightly older policy; PPO has no value network.

    A diverged evaluation has the reward ``floor`` or, without one, the worst finite reward so far (and teaches nothing
    while there is none). A failed evaluation teaches nothing. It may be joined with a gradient searcher: old rewards
    fade out of the baseline.
    """

    stationary = False

    class Config(BaseConfig):
        """Settings.

        Args:
            algorithm: how rewards change the policy.
            policy: the distribution; ``independent`` has one categorical a dimension, in ``lstm`` each decision sees
                those before it.
            lr: step size of Adam on the policy's parameters; None means 0.05, for an LSTM 0.01.
            entropy: weight of the entropy bonus, in units of reward a nat; keeps the policy from settling early.
            baseline: decay of the moving average of rewards, an update.
            floor: smallest reward; rewards below are raised to it. None for no bound.
            batch: fewest evaluations in an update.
            clip: PPO's bound on the change of a probability.
            epochs: PPO's steps an update.
            hidden: width of the LSTM.
            in_flight: proposals evaluated at once.
        """

        algorithm: Literal["reinforce", "ppo"] = "reinforce"
        policy: Literal["independent", "lstm"] = "independent"
        lr: float | None = Field(default=None, gt=0)
        entropy: float = Field(default=1e-3, ge=0)
        baseline: float = Field(default=0.9, ge=0, lt=1)
        floor: float | None = None
        batch: int = Field(default=1, ge=1)
        clip: float = Field(default=0.2, gt=0)
        epochs: int = Field(default=4, ge=1)
        hidden: int = Field(default=32, ge=1)
        in_flight: int = Field(default=1, ge=1)

        @model_validator(mode="after")
        def _settings_fit(self) -> Policy.Config:
            own = (("clip", "algorithm", "ppo"), ("epochs", "algorithm", "ppo"), ("hidden", "policy", "lstm"))
            for name, key, needed in own:
                if name in self.model_fields_set and getattr(self, key) != needed:
                    raise ConfigError(name, f"is a setting of {key}: {needed}; leave it out")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config
        self.in_flight = config.in_flight

    def begin(self) -> None:
        """Makes the policy.

        Raises:
            UnsupportedError: if a dimension has no short list of values.
        """
        recurrent = self.config.policy == "lstm"
        self._policy: PolicyNetwork = (
            LSTM(self._space, derive(self._seed, "network"), self.config.hidden)
            if recurrent
            else Independent(self._space)
        )
        lr = self.config.lr or (0.01 if recurrent else 0.05)
        self._optimizer = torch.optim.Adam(self._policy.parameters(), lr=lr, foreach=False)
        self._baseline: float | None = None
        self._worst: float | None = None
        self._waiting: list[tuple[Choices, float, float]] = []

    @property
    def network(self) -> PolicyNetwork:
        """The policy itself, an ``nn.Module``."""
        return self._policy

    def propose(self, n: int, first: int) -> list[tuple[Choices, float]]:
        """Points drawn from the policy, each with its log probability; each decision has its own stream."""
        names = list(self._space)
        own = [derive(self._seed, "policy", number) for number in range(first, first + n)]
        uniform = Draws([derive(seed, name) for seed in own for name in names]).uniform(1).reshape(n, len(names))
        with torch.no_grad():
            points, logs = self._policy.sample(uniform)
        return list(zip(points, logs.tolist(), strict=True))

    def learn(self, told: Sequence[tuple[Evaluation, float]]) -> None:
        for evaluation, log_probability in told:
            reward = self._reward(evaluation)
            if reward is not None:
                self._waiting.append((evaluation.proposal.choices, reward, log_probability))
        if len(self._waiting) >= self.config.batch:
            self._update(self._waiting)
            self._waiting = []

    def _update(self, samples: Sequence[tuple[Choices, float, float]]) -> None:
        mean = sum(reward for _, reward, _ in samples) / len(samples)
        before = mean if self._baseline is None else self._baseline
        advantages = [(choices, reward - before) for choices, reward, _ in samples]
        for _ in range(self.config.epochs if self.config.algorithm == "ppo" else 1):
            self._optimizer.zero_grad()
            if self.config.algorithm == "ppo":
                old = [log_probability for _, _, log_probability in samples]
                loss = ppo(self._policy, advantages, old, self.config.entropy, self.config.clip)
            else:
                loss = reinforce(self._policy, advantages, self.config.entropy)
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

    def likeliest(self) -> Choices:
        """The choices on the way that takes the likeliest value of each dimension."""
        return self._policy.run(lambda name, values, logs: int(logs.argmax()))[0]

    def drawn(self, n: int, seed: int) -> list[Choices]:
        """Points drawn from the policy as it is, which are no proposals."""
        names = list(self._space)
        own = [derive(seed, "drawn", index, name) for index in range(n) for name in names]
        with torch.no_grad():
            return list(self._policy.sample(Draws(own).uniform(1).reshape(n, len(names)))[0])

    def probabilities(self) -> dict[str, dict[Scalar, float]]:
        """What the policy would now choose, by dimension and value, on the way that takes its likeliest values."""
        seen: dict[str, dict[Scalar, float]] = {}

        def look(name: str, values: list[Any], logs: Tensor) -> int:
            seen[name] = dict(zip(values, logs.exp().tolist(), strict=True))
            return int(logs.argmax())

        with torch.no_grad():
            self._policy.run(look)
        return seen


def reinforce(policy: PolicyNetwork, samples: Sequence[tuple[Choices, float]], entropy: float) -> Tensor:
    """Minus what REINFORCE ascends, a scalar.

    Args:
        policy: the distribution.
        samples: choices with their advantages.
        entropy: weight of the entropy.
    """
    logs, entropies = policy.score([choices for choices, _ in samples])
    advantages = torch.tensor([advantage for _, advantage in samples], dtype=torch.float64)
    return -(advantages * logs + entropy * entropies).mean()


def ppo(
    policy: PolicyNetwork,
    samples: Sequence[tuple[Choices, float]],
    old: Sequence[float],
    entropy: float,
    clip: float,
) -> Tensor:
    """Minus what PPO ascends, a scalar; arguments as for :func:`reinforce`.

    Args:
        policy: the distribution.
        samples: choices with their advantages.
        old: log probabilities of the choices when they were proposed.
        entropy: weight of the entropy.
        clip: how far from 1 the ratio of probabilities still counts.
    """
    logs, entropies = policy.score([choices for choices, _ in samples])
    advantages = torch.tensor([advantage for _, advantage in samples], dtype=torch.float64)
    ratio = (logs - torch.tensor(list(old), dtype=torch.float64)).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -(surrogate + entropy * entropies).mean()
