"""How far an update rule is from a teacher's, and the gradient of that: a start for learning to optimize.

The meta-gradient through hundreds of steps is noisy, and the rule that it starts from goes nowhere. A hand-made
optimizer already gets somewhere, and copying it is ordinary supervised learning (Chen et al. 2020, "Training stronger
baselines for learning to optimize", arXiv:2010.09089, imitate and learn together; here one comes before the other).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from metasearch.components.rules.flat import Block, FlatRule, State, joined
from metasearch.components.rules.sample import Sample
from metasearch.core.contracts import Learner
from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.values import Call, Losses, Phi, Task, Tensors
from metasearch.estimators.episodes import EpisodeEstimator, Problem
from metasearch.learners.inner_loop import InnerLoop

__all__ = ["Imitation"]

SLOT = "update_rule"
SMALL = 0.3
"""Of the root mean square of a tensor's moves along the way: shorter ones count as so long."""
Step = tuple[Tensor, Tensor, Tensor]


class Imitation(EpisodeEstimator):
    """The relative distance between the moves of the learner's rule and those of a teacher, who makes the way.

    With gradients g_k along the teacher's training run and its moves d_k, the rule (with a state of its own) is given
    the same gradients; where u_k are its moves, the distance is the mean over steps k and tensors of
    ``|u_k - d_k| / |d_k|``: about 1 for a rule that does not move, 0 for the teacher. (Where d_k is shorter than 0.3 of
    its root mean square along the way, that takes its place.) It stands for L in these evaluations; validation measures
    training runs of the rule itself. Only the rule's tensors have a gradient.

    Raises:
        ConfigError: if the teacher is no update rule, or one that knows other tensors, or ``learned`` holds no numbers.
        UnsupportedError: by :meth:`check`, for a learner without steps, whose rule does not treat coordinates alike,
            or normalizes over tensors of which it would see a part.
    """

    class Config(EpisodeEstimator.Config):
        """Settings.

        Args:
            teacher: the update rule that is imitated, as the slot of that name takes it:
                ``{type: learned_momentum, momentum: 0.9, nesterov: true, rate: 1}``; in an experiment also
                ``{from: PHI}``, the folder of a phi or a run that learned one of metasearch's own.
            learned: what the teacher has learned, numbers or lists of numbers by name; None means that it is as it
                starts. ``from`` fills this in.
            coordinates: of each tensor, drawn anew for each task; None means all.
        """

        teacher: dict[str, Any]
        learned: dict[str, Any] | None = None
        coordinates: PositiveInt | None = 256

    gives_gradient: ClassVar[bool] = True

    def __init__(self, config: Any, problem: Problem, function: str = "train") -> None:
        super().__init__(config, problem, function)
        try:
            self._learned: Tensors | None = (
                None
                if config.learned is None
                else {name: torch.tensor(value, dtype=torch.float64) for name, value in config.learned.items()}
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                "evaluation.estimator.learned", f"expected numbers or lists of numbers: {error}"
            ) from error

    def check(self, learner: Learner, phi: Phi) -> None:
        rule = learner.slots[SLOT] if isinstance(learner, InnerLoop) else None
        if not isinstance(learner, InnerLoop) or not isinstance(rule, FlatRule):
            raise UnsupportedError(
                "evaluation.estimator",
                "imitation needs an inner loop with an update rule that is learned: lstm, mlp, learned_momentum, "
                "learned_padam or learned_adam",
            )
        if not learner.n_steps():
            raise UnsupportedError("learner.steps", "imitation needs at least one inner step in training, got 0")
        if rule.normalizes and self.config.coordinates is not None:
            raise UnsupportedError(
                "evaluation.estimator.coordinates",
                "must be null: this update rule divides by the root mean square of whole tensors",
            )
        self._knowing(self._taught(learner))

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Learner) -> tuple[Losses, Tensors | None, Any]:
        assert isinstance(learner, InnerLoop)
        rule = learner.slots[SLOT]
        assert isinstance(rule, FlatRule)
        leaves = {name: value.detach().requires_grad_() for name, value in phi.tensors.items()}
        values = phi.replace(tensors=leaves).part(SLOT)
        apart: list[Tensor] = []
        size: list[Tensor] = []
        state: State | None = None
        with torch.enable_grad():
            for number, (block, (theta, gradient, move)) in enumerate(
                self._lesson(call, phi, task, self._taught(learner))
            ):
                state = rule.start(values, theta) if state is None else state
                own, state = rule.advance(values, theta, gradient, state, number, block)
                apart.append(_norms(own - move, block))
                size.append(_norms(move, block))
            distance = _relative(torch.stack(apart), torch.stack(size))
            found = torch.autograd.grad(distance.sum(), list(leaves.values()), materialize_grads=True)
        value = distance.detach()
        return Losses(value, value, {}), dict(zip(leaves, found, strict=True)), None

    def _taught(self, learner: InnerLoop) -> InnerLoop:
        """The inner loop with the teacher's rule."""
        if "from" in self.config.teacher:
            raise ConfigError(
                "evaluation.estimator.teacher",
                "comes from a phi in an experiment that says `estimator: {type: imitation, teacher: {from: PHI}}`; "
                "elsewhere give its settings, and `learned`",
            )
        try:
            taught = learner.with_rule(self.config.teacher)
        except ConfigError as error:
            raise error.under("evaluation.estimator.teacher") from None
        if not isinstance(taught.slots[SLOT], FlatRule):
            raise ConfigError(
                "evaluation.estimator.teacher",
                f"must be a rule of its own such as learned_momentum or learned_adam, got {self.config.teacher}",
            )
        return taught

    def _knowing(self, taught: InnerLoop) -> Phi:
        """A phi of the inner loop with the teacher's rule, in which that has learned what it knows."""
        fresh = taught.init(0)
        if self._learned is None:
            return self.problem.phi(fresh)
        shapes = {name: tuple(value.shape) for name, value in fresh.part(SLOT).items()}
        found = {name: tuple(value.shape) for name, value in self._learned.items()}
        if found != shapes:
            raise ConfigError(
                "evaluation.estimator.teacher",
                f"was learned for another network: it has {found}, and {shapes} would fit here",
            )
        given = {f"{SLOT}.{name}": value for name, value in self._learned.items()}
        return self.problem.phi(fresh.replace(tensors={**fresh.tensors, **given}))

    def _lesson(self, call: Call, phi: Phi, task: Task, taught: InnerLoop) -> Iterator[tuple[Block, Step]]:
        """Theta, gradient and move of the coordinates ``[T, n]`` at each of the teacher's steps."""
        others = {name: value.detach() for name, value in phi.tensors.items() if not name.startswith(f"{SLOT}.")}
        constants = self._knowing(taught).tensors
        teacher = phi.replace(
            tensors={**others, **{name: value for name, value in constants.items() if name.startswith(f"{SLOT}.")}}
        )
        task = dataclasses.replace(task, info={**task.info, **taught.drawn(task, call.seed)})
        names = taught.adapted
        state = taught.begin(teacher, task, call.seed)
        start = joined([state["theta"][name] for name in names])
        sizes = tuple(state["theta"][name][0].numel() for name in names)
        sample = Sample.draw(task.seeds, sizes, self.config.coordinates or max(sizes), start)
        block = Block(names, sample.sizes)
        for number in range(taught.n_steps()):
            loss, gradients, buffers = taught.gradients(teacher, task, state, call.seed, create_graph=False)
            with torch.no_grad():  # not around the yield, where it would be the reader's, too
                theta, rule = taught.slots.update(teacher, state["theta"], gradients, loss, state["rule"], number)
                here, gradient, there = (
                    sample.of(joined([one[name] for name in names])) for one in (state["theta"], gradients, theta)
                )
            state = {**state, "theta": theta, "buffers": buffers, "rule": rule, "step": number + 1}
            yield block, (here, gradient, there - here)


def _norms(moves: Tensor, block: Block) -> Tensor:
    """Lengths of each tensor's moves ``[T, n]``, as ``[T, tensors]``; the derivative at 0 is 0."""
    return torch.stack([torch.linalg.vector_norm(part, dim=-1) for part in moves.split(block.sizes, -1)], -1)


def _relative(apart: Tensor, size: Tensor) -> Tensor:
    """``[T]`` from ``[steps, T, tensors]``; where the teacher hardly moves, against a part of what it usually does."""
    usual = size.square().mean(0).sqrt()
    measure = torch.maximum(size, SMALL * usual)
    return torch.where(usual > 0, apart / torch.where(usual > 0, measure, 1.0), 0.0).mean((0, 2))
