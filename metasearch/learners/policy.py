"""F_phi for reinforcement learning: an inner loop whose examples are trajectories of the policy that it trains.

    tau ~ policy(theta_k)                                   n trajectories in the task's world
    theta_{k+1} = update_rule(theta_k, gradient of  -mean over tau of  sum_t log pi(a_t | s_t) A_t)
    l = minus the mean return of policy(theta_K)

The inner gradient is REINFORCE (Williams 1992) with a linear baseline on features of state and time (Duan et al. 2016,
arXiv:1604.06778). phi descends the same surrogate on trajectories of theta_K: its gradient is the policy gradient of
MAML-RL (Finn, Abbeel, Levine 2017, arXiv:1703.03400, Algorithm 3), with a gradient step in place of TRPO. As there, the
sampling of the first trajectories counts as a constant. With the estimator ``ppo``, phi takes several steps on the same
trajectories in place of one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from metasearch.core import seeds as seeding
from metasearch.core.contracts import Environment, Model
from metasearch.core.errors import ArtifactError, UnsupportedError
from metasearch.core.values import Batch, Losses, Phi, Task, TaskSpec, Tensors
from metasearch.learners.inner_loop import InnerLoop, State, layer_seeds
from metasearch.models import build_model

__all__ = ["GaussianPolicy", "PolicyLoop", "Rollout", "Trajectories", "advantages", "linear_baseline", "log_density"]

_STD = "log_std"


class GaussianPolicy:
    """A network's outputs as means of actions, and one learned logarithm of a standard deviation for each action.

    Args:
        network: maps observations to means.
        actions: numbers in an action.
        log_std: where the deviations start, as logarithms.
    """

    traceable = False

    def __init__(self, network: Model, actions: int, log_std: float) -> None:
        self.network, self._actions, self._log_std = network, actions, log_std

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        """The network's own initial values, and the deviations."""
        parameters, buffers = self.network.init(seed)
        return {**parameters, _STD: torch.full((self._actions,), self._log_std)}, buffers

    def __call__(
        self, parameters: Tensors, buffers: Tensors, x: Tensor, *, seeds: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensors]:
        """Means ``[T, n, actions]`` of actions for observations ``[T, n, ...]``."""
        own = {name: value for name, value in parameters.items() if name != _STD}
        return self.network(own, buffers, x, seeds=seeds)

    def module(self) -> nn.Module:
        """The network as an ordinary module, which gives means; the deviations are a parameter beside.

        Raises:
            ArtifactError: if the network has none.
        """
        make = getattr(self.network, "module", None)
        if make is None:
            raise ArtifactError(f"{type(self.network).__name__} has no network that could be handed out as a module")
        module: nn.Module = make()
        module.register_parameter(_STD, nn.Parameter(torch.full((self._actions,), self._log_std)))
        return module


@dataclass(frozen=True)
class Rollout:
    """Trajectories; ``n`` of each task, all of ``H`` steps, of which those after the end do not count.

    Args:
        observations: ``[T, n, H, ...]``, before each step.
        actions: ``[T, n, H, actions]``.
        rewards: ``[T, n, H]``, 0 after the end.
        alive: ``[T, n, H]``, 1 up to the last step of the trajectory, then 0.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    alive: Tensor

    @property
    def returns(self) -> Tensor:
        """Sums of rewards, ``[T, n]``."""
        return self.rewards.sum(-1)


@dataclass(frozen=True)
class Trajectories(Batch):
    """Examples whose trajectories are made already: a step on them makes none.

    Args:
        rollout: the trajectories.
        density: logarithms of their actions' densities under the policy that made them, ``[T, n, H]``.
        buffers: the network's buffers after they were made.
    """

    rollout: Rollout
    density: Tensor
    buffers: Tensors


class PolicyLoop(InnerLoop):
    """An inner loop on trajectories of a Gaussian policy; see the module. L is minus the mean return.

    ``adapt`` acts and learns on starts and goals, and what it returns gives mean actions. Tasks bring the world in
    ``TaskSpec.environment``. All draws come from the tasks' seeds, so they do not depend on how tasks are grouped.

    Args:
        config: its settings.
        spec: shapes of the tasks, and their world.
        choices: values of the slots' own spaces, by ``slots.<slot>.<name>``.

    Raises:
        UnsupportedError: if the tasks have no world.
        ConfigError: see :class:`~metasearch.learners.inner_loop.InnerLoop`.
    """

    class Config(InnerLoop.Config):
        """Settings.

        Args:
            discount: of a reward, a step.
            normalize: scale a task's advantages to mean 0 and deviation 1.
            log_std: logarithm of the policy's standard deviations at first.
            surrogate: what an inner step descends: advantages times the ``log_density`` of the actions, as MAML does,
                or times the ``ratio`` of their densities to those they were drawn with (ProMP's low variance
                curvature, Rothfuss et al. 2019, arXiv:1810.06784). Steps on fresh trajectories are the same;
                their derivatives in theta are not, and on older ones only the ratio allows for theta's way since.
        """

        discount: float = Field(default=0.99, gt=0.0, le=1.0)
        normalize: bool = True
        log_std: float = 0.0
        surrogate: Literal["log_density", "ratio"] = "log_density"

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        if spec.environment is None:
            raise UnsupportedError(
                "learner", f"policy needs tasks with a world to act in (navigation, for example), got {spec.kind!r}"
            )
        self.environment: Environment = spec.environment
        super().__init__(config, spec, choices)

    @property
    def traceable(self) -> bool:
        """False: trajectories are drawn."""
        return False

    def build_network(self) -> Model:
        """The policy."""
        outputs = dataclasses.replace(self.spec, outputs=self.environment.actions)
        return GaussianPolicy(build_model(self.config.model, outputs), self.environment.actions, self.config.log_std)

    def example_losses(
        self, theta: Tensors, buffers: Tensors, batch: Batch, seeds: NDArray[np.int64]
    ) -> tuple[Tensor, Tensors]:
        """The surrogate loss of each trajectory, ``[T, n]``."""
        if isinstance(batch, Trajectories):
            return self.surrogate(theta, buffers, batch.rollout, batch.density)
        rollout, _ = self.rollout(theta, buffers, batch, seeds)
        return self.surrogate(theta, buffers, rollout)

    def query_loss(self, phi: Phi, task: Task, state: State, seed: int | None) -> Losses:
        """The surrogate as objective, minus the mean return as loss, and the metric ``return``.

        Trajectories are drawn without a seed, too: from the tasks' own.
        """
        theta = self._network(phi, state, task.query.x)
        seeds = layer_seeds(task, 0 if seed is None else seed, "query", state["step"])
        rollout, buffers = self.rollout(theta, state["buffers"], task.query, seeds)
        objective = self.surrogate(theta, state["buffers"], rollout)[0].mean(-1)
        return _losses(objective, rollout, buffers)

    def trajectories(
        self, phi: Phi, task: Task, state: State, seed: int, purpose: Literal["support", "query"]
    ) -> Trajectories:
        """The trajectories that the next step learns from, or that a state is judged by, to be used more than once."""
        batch, number = (task.support, state["step"]) if purpose == "support" else (task.query, state["step"] - 1)
        with torch.no_grad():
            theta = self.slots.parameters(phi, state["theta"], max(number, 0), batch.x)
            seeds = layer_seeds(task, seed, purpose, state["step"])
            rollout, buffers = self.rollout(theta, state["buffers"], batch, seeds)
            density = self.density(theta, state["buffers"], rollout)
        return Trajectories(batch.x, batch.y, rollout, density, buffers)

    def clipped_loss(self, phi: Phi, state: State, made: Trajectories, clip: float) -> Losses:
        """A state judged by trajectories of an earlier one: PPO's objective, and what :meth:`query_loss` says of them.

        With r the ratio of an action's densities, it is minus the mean of min(r A, clip(r, 1 - clip, 1 + clip) A) in
        place of r A (Schulman et al. 2017, arXiv:1707.06347, Eq. 7). The metric ``clipped`` is the share of steps whose
        r lies outside.
        """
        theta, alive = self._network(phi, state, made.x), made.rollout.alive
        weight = advantages(made.rollout, self.config.discount, normalize=self.config.normalize)
        ratio = ((self.density(theta, state["buffers"], made.rollout) - made.density) * alive).exp()
        gain = torch.minimum(ratio * weight, ratio.clamp(1 - clip, 1 + clip) * weight)
        losses = _losses(_per_trajectory(-gain, made.rollout).mean(-1), made.rollout, made.buffers)
        outside = ((ratio.detach() - 1).abs() > clip).to(torch.float64).sum((1, 2)) / alive.sum((1, 2))
        return dataclasses.replace(losses, metrics={**losses.metrics, "clipped": outside})

    @torch.no_grad()
    def rollout(
        self, theta: Tensors, buffers: Tensors, batch: Batch, seeds: NDArray[np.int64]
    ) -> tuple[Rollout, Tensors]:
        """Trajectories of the policy with parameters ``theta [T, ...]``, from the starts and for the goals of a batch.

        No gradient flows through them.
        """
        tasks, n = batch.x.shape[:2]
        actions, horizon = self.environment.actions, self.environment.horizon
        draws = torch.from_numpy(seeding.Draws(seeds, "actions").normal(horizon * n * actions))
        noise = draws.to(batch.x.device, batch.x.dtype).reshape(tasks, horizon, n, actions)
        deviation = theta[_STD].exp()[:, None]
        state, alive = batch.x, batch.x.new_ones(tasks, n)
        steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for number in range(horizon):
            mean, buffers = self.model(theta, buffers, state, seeds=seeds)
            action = mean + deviation * noise[:, number]
            after, reward, end = self.environment.step(state, action, batch.y)
            steps.append((state, action, reward * alive, alive))
            alive = alive * (~end).to(alive.dtype)
            state = after
        return Rollout(*(torch.stack(one, 2) for one in zip(*steps, strict=True))), buffers

    def surrogate(
        self, theta: Tensors, buffers: Tensors, rollout: Rollout, drawn: Tensor | None = None
    ) -> tuple[Tensor, Tensors]:
        """``-sum_t log pi(a_t | s_t) A_t`` of each trajectory over the mean length of the task's, ``[T, n]``; or with
        the ratio of densities in place of the logarithm.

        Args:
            theta: parameters of the policy ``[T, ...]``.
            buffers: of its network, returned as they are.
            rollout: the trajectories.
            drawn: logarithms of the densities that their actions were drawn with; None means under ``theta``.
        """
        score = self.density(theta, buffers, rollout)
        if self.config.surrogate == "ratio":
            score = ((score - (score.detach() if drawn is None else drawn)) * rollout.alive).exp()
        weight = advantages(rollout, self.config.discount, normalize=self.config.normalize)
        return _per_trajectory(-score * weight, rollout), buffers

    def density(self, theta: Tensors, buffers: Tensors, rollout: Rollout) -> Tensor:
        """Logarithms of the densities of a rollout's actions under the policy with parameters ``theta``, ``[T, n, H]``,
        up to a constant.
        """
        tasks, n, horizon = rollout.rewards.shape
        mean, _ = self.model(theta, buffers, rollout.observations.flatten(1, 2))
        return log_density(rollout.actions, mean.reshape(tasks, n, horizon, -1), theta[_STD].reshape(tasks, 1, 1, -1))


def _per_trajectory(values: Tensor, rollout: Rollout) -> Tensor:
    """Sums of values of single steps ``[T, n, H]`` over the mean length of a task's trajectories, ``[T, n]``."""
    length = rollout.alive.sum((1, 2)) / rollout.alive.shape[1]
    return (values * rollout.alive).sum(-1) / length[:, None]


def _losses(objective: Tensor, rollout: Rollout, buffers: Tensors) -> Losses:
    returns = rollout.returns.mean(-1)
    updates = {f"initialization.{name}": value.to(torch.float64).mean(0) for name, value in buffers.items()}
    return Losses(objective, -returns, {"return": returns.to(torch.float64)}, updates)


def log_density(actions: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Logarithm of the density of independent normal actions ``[..., actions]``, up to a constant: ``[...]``."""
    return -(((actions - mean) * (-log_std).exp()).square() / 2 + log_std).sum(-1)


@torch.no_grad()
def advantages(rollout: Rollout, discount: float, *, normalize: bool) -> Tensor:
    """Discounted rewards to come, less what the linear baseline expects, ``[T, n, H]``; 0 after the end."""
    to_come = torch.zeros_like(rollout.rewards)
    later = torch.zeros_like(rollout.rewards[..., 0])
    for step in reversed(range(rollout.rewards.shape[-1])):
        later = rollout.rewards[..., step] + discount * later
        to_come[..., step] = later
    weight = (to_come - linear_baseline(rollout, to_come)) * rollout.alive
    if not normalize:
        return weight
    count = rollout.alive.sum((1, 2), keepdim=True)
    centred = (weight - weight.sum((1, 2), keepdim=True) / count) * rollout.alive
    deviation = (centred.square().sum((1, 2), keepdim=True) / count).sqrt()
    return centred / (deviation + 1e-8)


def linear_baseline(rollout: Rollout, to_come: Tensor, ridge: float = 1e-5) -> Tensor:
    """Rewards to come as a ridge regression on state, state squared, time, its square and cube, and 1: ``[T, n, H]``.

    Fitted to each task's own trajectories. Time is in hundreds of steps; computed in float64.
    """
    tasks, n, horizon = to_come.shape
    seen = rollout.observations.flatten(3).to(torch.float64)
    time = (torch.arange(horizon, dtype=torch.float64, device=seen.device) / 100).expand(tasks, n, horizon)[..., None]
    features = torch.cat([seen, seen.square(), time, time**2, time**3, torch.ones_like(time)], -1).flatten(1, 2)
    weighted = features * rollout.alive.to(torch.float64).flatten(1)[..., None]
    gram = weighted.mT @ features + ridge * torch.eye(features.shape[-1], dtype=torch.float64, device=seen.device)
    weights = torch.linalg.solve(gram, weighted.mT @ to_come.to(torch.float64).flatten(1)[..., None])
    return (features @ weights).reshape(tasks, n, horizon).to(to_come.dtype)
