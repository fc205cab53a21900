"""PPO as the outer algorithm of a policy that adapts: several gradients from one collection of trajectories.

At the first of ``epochs`` outer steps the policies adapt and act, as in plain policy gradient. At those that follow,
the trajectories of all inner steps and of the adapted policies stay; the inner steps are computed again at the new phi,
and phi descends the clipped surrogate of PPO (Schulman et al. 2017, arXiv:1707.06347) at the parameters they lead to.
With ``learner.surrogate: ratio`` this is ProMP without its penalty on how far inner steps go (Rothfuss, Lee, Clavera,
Asfour, Abbeel 2019, arXiv:1810.06784, Algorithm 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from metasearch.core.contracts import Learner
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Batch, Call, Losses, Phi, Task, Tensors
from metasearch.estimators.episodes import EpisodeEstimator
from metasearch.learners.policy import PolicyLoop, Rollout, Trajectories

__all__ = ["PPO"]


class PPO(EpisodeEstimator):
    """The gradient of the clipped surrogate, through the inner steps.

    Trajectories serve ``epochs`` outer steps; the first of these gradients is the plain policy gradient. L is that of
    the trajectories, so it stays the same until new ones are made, which happens at the outer steps that ``epochs``
    divides; validation measures the policy as it is. Trajectories with a loss or gradient that is not finite are given
    up.

    Raises:
        UnsupportedError: by :meth:`check`, if the learner is not of type policy, or learns from parts or variations of
            its support trajectories, or is judged by others than those of the last policy.
    """

    class Config(EpisodeEstimator.Config):
        """Settings; the defaults are those of ProMP's published code for a point in the plane.

        Args:
            clip: how far the ratio of densities may gainfully move from 1.
            epochs: outer steps for one collection of trajectories.
        """

        clip: float = Field(default=0.3, gt=0.0, lt=1.0)
        epochs: PositiveInt = 5

    gives_gradient: ClassVar[bool] = True
    carries: bool = True

    def check(self, learner: Learner, phi: Phi) -> None:
        if not isinstance(learner, PolicyLoop):
            raise UnsupportedError(
                "evaluation.estimator", f"ppo is for learner: {{type: policy}}, got {type(learner).__name__}"
            )
        config = learner.config
        if config.objective != "final" or config.along != "query":
            raise UnsupportedError(
                "learner.objective", "ppo judges the last policy by its own trajectories; leave objective and along out"
            )
        if config.batch.train is not None or learner.slots.has("support"):
            raise UnsupportedError(
                "learner", "ppo keeps the support trajectories as they are; leave out batch and slots that change them"
            )

    def task_seeds(self, call: Call) -> Sequence[int]:
        return call.carried["seeds"] if self._goes_on(call) else call.seeds

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Learner) -> tuple[Losses, Tensors | None, Any]:
        assert isinstance(learner, PolicyLoop)
        carried = call.carried if self._goes_on(call) else None
        seed = call.seed if carried is None else carried["seed"]
        leaves = {name: value.detach().requires_grad_() for name, value in phi.tensors.items()}
        point = phi.replace(tensors=leaves)
        support: list[Trajectories] = []
        with torch.enable_grad():
            state = learner.begin(point, task, seed)
            for number in range(learner.n_steps()):
                support.append(
                    learner.trajectories(point, task, state, seed, "support")
                    if carried is None
                    else self._unpacked(carried["support"][number], task.support)
                )
                state = learner.step(point, dataclasses.replace(task, support=support[-1]), state, seed)
            query = (
                learner.trajectories(point, task, state, seed, "query")
                if carried is None
                else self._unpacked(carried["query"], task.query)
            )
            losses = learner.clipped_loss(point, state, query, self.config.clip)
            found = torch.autograd.grad(losses.objective.sum(), list(leaves.values()), materialize_grads=True)
        gradient = dict(zip(leaves, found, strict=True))
        numbers = (losses.objective, losses.query, *gradient.values())
        last = (call.step + 1) % self.config.epochs == 0
        if last or not all(bool(torch.isfinite(one).all()) for one in numbers):
            return losses, gradient, None
        kept = {
            "since": self._since(call),
            "seeds": [int(one) for one in task.seeds],
            "seed": seed,
            "support": [_packed(one) for one in support],
            "query": _packed(query),
        }
        return losses, gradient, kept

    def _since(self, call: Call) -> int:
        """The outer step that trajectories in use at a call were made at, or would have been."""
        return call.step - call.step % int(self.config.epochs)

    def _goes_on(self, call: Call) -> bool:
        return call.carried is not None and call.carried["since"] == self._since(call)

    def _unpacked(self, kept: Mapping[str, Any], batch: Batch) -> Trajectories:
        device = self.problem.device
        rollout = Rollout(**{name: value.to(device) for name, value in kept["rollout"].items()})
        buffers = {name: value.to(device) for name, value in kept["buffers"].items()}
        return Trajectories(batch.x, batch.y, rollout, kept["density"].to(device), buffers)


def _packed(made: Trajectories) -> dict[str, Tensor | Tensors]:
    """What is kept of trajectories: all but where they start and what for, which the tasks' seeds tell."""
    return {"rollout": dict(vars(made.rollout)), "density": made.density, "buffers": made.buffers}
