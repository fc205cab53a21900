"""Gradient steps on phi's tensors, by torch's optimizers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError, DivergedError, ExecutionError, ResumeError, UnsupportedError, nearest
from metasearch.core.space import Space
from metasearch.core.values import Estimate, Evaluation, Phi, Tensors

__all__ = ["Gradient"]


class Gradient:
    """Descends L by the gradients it is told, averaged over the evaluations of a step.

    It keeps copies of its tensors (half precision becomes float32) and the optimizer's state; the buffers take the mean
    of the evaluations' ``updates``.

    A diverged (or failed) evaluation is left out of the mean. If none is left, the step is skipped: tensors, buffers
    and the optimizer stay as they are, the step counts for the schedule. After ``patience`` skipped steps in a row,
    ``tell`` raises :class:`~metasearch.core.errors.DivergedError`.
    """

    needs_gradient = True
    stationary = False
    in_flight = 1

    class Config(BaseConfig):
        """Settings.

        Args:
            optimizer: one of torch's (``momentum`` and ``nesterov`` are SGD with momentum), or ``direction``, which
                adds ``lr`` times what it is told (for an estimate of where to go; Reptile's is one of where from).
            lr: step size, a step.
            betas: decay of Adam's two moments.
            eps: added to the denominator (adam, adamw, rmsprop, adagrad).
            momentum: for ``momentum`` and ``nesterov``.
            weight_decay: a step, as the optimizer defines it.
            clip: largest absolute value of a gradient's element.
            clip_norm: largest Euclidean norm of the whole gradient (after ``clip``).
            schedule: ``cosine`` and ``linear`` go from ``lr`` to ``min_lr`` in ``total_steps``, then stay there;
                ``step`` takes ``decay`` times ``lr`` after each ``decay_every`` steps, down to ``min_lr``.
            min_lr: where the schedule ends.
            decay: factor of ``step``.
            decay_every: steps between two of its cuts; required by ``step``.
            total_steps: length of the schedule in steps; required by ``cosine`` and ``linear``.
            average: what validation, the test and the artifact take is a moving average of phi, of which each step
                leaves so much (in the first steps less: ``(1 + t) / (10 + t)``), tensors and floating-point buffers;
                None takes the last phi. Useful where the gradients are noisy; the steps themselves know nothing of it
                (Polyak and Juditsky 1992).
            parts: slots whose tensors it moves; None for all that it is given.
            patience: skipped steps in a row after which the search is stopped.
        """

        optimizer: Literal["adam", "adamw", "sgd", "momentum", "nesterov", "rmsprop", "adagrad", "direction"] = "adam"
        lr: float = Field(default=1e-3, gt=0)
        betas: tuple[float, float] = (0.9, 0.999)
        eps: float = Field(default=1e-8, ge=0)
        momentum: float = Field(default=0.9, ge=0, lt=1)
        weight_decay: float = Field(default=0.0, ge=0)
        clip: float | None = Field(default=None, gt=0)
        clip_norm: float | None = Field(default=None, gt=0)
        schedule: Literal["constant", "cosine", "linear", "step"] = "constant"
        min_lr: float = Field(default=0.0, ge=0)
        decay: float = Field(default=0.5, gt=0, lt=1)
        decay_every: int | None = Field(default=None, ge=1)
        total_steps: int | None = Field(default=None, ge=1)
        average: float | None = Field(default=None, gt=0, lt=1)
        parts: tuple[str, ...] | None = None
        patience: int = Field(default=10, ge=1)

    def __init__(self, config: Config) -> None:
        self.config = config
        self._tensors: Tensors = {}
        self._buffers: Tensors = {}
        self._average: Phi | None = None

    def setup(self, phi: Phi, space: Space, seed: int) -> None:
        """As the contract says; ``seed`` is not used.

        Raises:
            ConfigError: if there is nothing to learn, ``parts`` names an unknown slot, or a schedule has no length.
            UnsupportedError: if it is given choices or tensors without a gradient (integers).
        """
        if space:
            raise UnsupportedError("searcher", f"a gradient searcher makes no choices, but was given {list(space)}")
        if self.config.schedule in ("cosine", "linear") and self.config.total_steps is None:
            raise ConfigError("searcher.total_steps", f"is required by schedule: {self.config.schedule}")
        if self.config.schedule == "step" and self.config.decay_every is None:
            raise ConfigError("searcher.decay_every", "is required by schedule: step")
        owned = _owned(phi, self.config.parts)
        for name, tensor in owned.tensors.items():
            if not tensor.is_floating_point():
                raise UnsupportedError(
                    name, f"has dtype {tensor.dtype}, which has no gradient; make it a buffer of its slot"
                )
        self._tensors = {name: _own(tensor).requires_grad_() for name, tensor in owned.tensors.items()}
        self._buffers = {name: tensor.detach().clone() for name, tensor in owned.buffers.items()}
        self._average = None if self.config.average is None else self.phi()
        self._optimizer = _optimizer(self.config, list(self._tensors.values()))
        self._steps = 0
        self._skipped = 0

    def ask(self, n: int) -> list[Mapping[str, Any]]:
        return [{} for _ in range(n)]

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Takes one step.

        Raises:
            DivergedError: after ``patience`` skipped steps in a row.
            ExecutionError: if an evaluation has no gradient of these tensors.
        """
        good = [evaluation.estimate for evaluation in evaluations if evaluation.status == "ok"]
        gradient = self._mean_gradient(good) if good else None
        if gradient is None or not all(bool(torch.isfinite(part).all()) for part in gradient.values()):
            self._skip(evaluations)
        else:
            self._step(gradient)
            self._update_buffers(good)
            self._update_average()
            self._skipped = 0
        self._steps += 1

    def lr(self) -> float:
        """The step size of the next step."""
        config = self.config
        if config.schedule == "step" and config.decay_every is not None:
            return max(config.lr * config.decay ** (self._steps // config.decay_every), config.min_lr)
        if config.schedule == "constant" or config.total_steps is None:
            return config.lr
        progress = min(self._steps / config.total_steps, 1.0)
        left = 1.0 - progress if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return config.min_lr + (config.lr - config.min_lr) * left

    def replay(self, evaluations: Sequence[Evaluation]) -> None:
        """Nothing: the checkpoint holds its state, and records hold no gradients."""

    def phi(self) -> Phi:
        return Phi(_copies(self._tensors), _copies(self._buffers))

    def averaged(self) -> Phi:
        """What the search would give if it ended now: the moving average, where there is one."""
        return self.phi() if self._average is None else _copy_of(self._average)

    def state_dict(self) -> dict[str, Any]:
        average = {}
        if self._average is not None:
            kept = _copy_of(self._average)
            average = {"average": {"tensors": kept.tensors, "buffers": kept.buffers}}
        state = {name: self._optimizer.state[tensor] for name, tensor in self._tensors.items()}
        return {
            "tensors": _copies(self._tensors),
            "buffers": _copies(self._buffers),
            "optimizer": {name: {key: _copy(value) for key, value in part.items()} for name, part in state.items()},
            "steps": self._steps,
            "skipped": self._skipped,
            **average,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state, bit for bit.

        Raises:
            ResumeError: if it is the state of other tensors, or has no average where one is kept.
        """
        for kind, mine in (("tensors", self._tensors), ("buffers", self._buffers)):
            theirs = state[kind]
            if {n: tuple(t.shape) for n, t in mine.items()} != {n: tuple(t.shape) for n, t in theirs.items()}:
                raise ResumeError(f"a gradient searcher of the {kind} {sorted(mine)} cannot load {sorted(theirs)}")
        if self._average is not None and "average" not in state:
            raise ResumeError("a gradient searcher with `average` cannot go on from a state without one")
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(state["tensors"][name])
        self._buffers = _copies(state["buffers"])
        if self._average is not None:
            self._average = _copy_of(Phi(state["average"]["tensors"], state["average"]["buffers"]))
        self._optimizer.state.clear()
        for name, part in state["optimizer"].items():
            if part:
                self._optimizer.state[self._tensors[name]] = {key: _copy(value) for key, value in part.items()}
        self._steps, self._skipped = int(state["steps"]), int(state["skipped"])

    def _mean_gradient(self, estimates: Sequence[Estimate]) -> Tensors:
        """Mean over evaluations, clipped; a tensor that no evaluation has a gradient of is left out."""
        mean: Tensors = {}
        for name, tensor in self._tensors.items():
            parts = [e.gradient[name] for e in estimates if e.gradient is not None and name in e.gradient]
            if parts:
                mean[name] = sum((part.to(tensor) for part in parts), torch.zeros_like(tensor)) / len(estimates)
        if not mean:
            raise ExecutionError(
                f"expected a gradient of {sorted(self._tensors)}, got none of them; use an estimator that gives one"
            )
        if self.config.clip is not None:
            mean = {name: part.clamp(-self.config.clip, self.config.clip) for name, part in mean.items()}
        if self.config.clip_norm is not None:
            norm = math.sqrt(sum(float(part.double().square().sum()) for part in mean.values()))
            mean = {name: part * min(1.0, self.config.clip_norm / (norm + 1e-12)) for name, part in mean.items()}
        return {name: part.detach() for name, part in mean.items()}

    def _step(self, gradient: Tensors) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr()
        for name, tensor in self._tensors.items():
            tensor.grad = gradient.get(name)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _update_average(self) -> None:
        if self._average is None or self.config.average is None:
            return
        decay = min(self.config.average, (1 + self._steps) / (10 + self._steps))
        for average, now in ((self._average.tensors, self._tensors), (self._average.buffers, self._buffers)):
            for name, tensor in now.items():
                if tensor.is_floating_point():
                    average[name].lerp_(tensor.detach(), 1 - decay)
                else:
                    average[name].copy_(tensor)

    def _skip(self, evaluations: Sequence[Evaluation]) -> None:
        self._skipped += 1
        if self._skipped >= self.config.patience:
            tasks = sorted({task for evaluation in evaluations for task in evaluation.estimate.diverged})
            raise DivergedError(
                f"no finite gradient in {self._skipped} steps in a row (L now: {[e.value for e in evaluations]}, "
                f"diverged tasks: {tasks}); lower lr, set clip_norm, or shorten the inner loop"
            )

    def _update_buffers(self, estimates: Sequence[Estimate]) -> None:
        for name, buffer in self._buffers.items():
            parts = [estimate.updates[name] for estimate in estimates if name in estimate.updates]
            if parts:
                mean = torch.stack([part.detach().to(buffer.device, torch.float64) for part in parts]).mean(0)
                self._buffers[name] = (mean if buffer.is_floating_point() else mean.round()).to(buffer.dtype)


def _optimizer(config: Gradient.Config, tensors: list[Tensor]) -> torch.optim.Optimizer:
    """One tensor after another (``foreach=False``), so that numbers do not depend on how tensors are grouped."""
    if not tensors:
        raise ConfigError("searcher", "a gradient searcher needs tensors to learn; none of its slots has any")
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "foreach": False}
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(tensors, betas=config.betas, eps=config.eps, **common)
        case "adamw":
            return torch.optim.AdamW(tensors, betas=config.betas, eps=config.eps, **common)
        case "rmsprop":
            return torch.optim.RMSprop(tensors, eps=config.eps, **common)
        case "adagrad":
            return torch.optim.Adagrad(tensors, eps=config.eps, **common)
        case "direction":
            return torch.optim.SGD(tensors, maximize=True, **common)
        case "sgd":
            return torch.optim.SGD(tensors, **common)
        case _:
            return torch.optim.SGD(tensors, momentum=config.momentum, nesterov=config.optimizer == "nesterov", **common)


def _owned(phi: Phi, parts: Sequence[str] | None) -> Phi:
    """The part of phi that lies in the named slots."""
    if parts is None:
        return phi
    slots = {name.partition(".")[0] for name in (*phi.tensors, *phi.buffers)}
    for part in parts:
        if part not in slots:
            raise ConfigError("searcher.parts", f"no learned slot {part!r}; {nearest(part, slots)}")
    return Phi(
        {name: tensor for name, tensor in phi.tensors.items() if name.partition(".")[0] in parts},
        {name: tensor for name, tensor in phi.buffers.items() if name.partition(".")[0] in parts},
    )


def _own(tensor: Tensor) -> Tensor:
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return tensor.detach().to(wide, copy=True)


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _copy_of(phi: Phi) -> Phi:
    return Phi(_copies(phi.tensors), _copies(phi.buffers))


def _copies(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
