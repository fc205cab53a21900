"""What baselines have in common that start somewhere and then take the inner loop that they are compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydantic import PositiveFloat, PositiveInt

from metasearch.components.initialization import LearnedInitialization
from metasearch.core import seeds as seeding
from metasearch.core.config import Config as BaseConfig
from metasearch.core.contracts import Learner
from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.values import Phi, Tensors
from metasearch.estimators.episodes import Problem
from metasearch.estimators.value import Value
from metasearch.learners.inner_loop import InnerLoop

__all__ = ["FineTuned", "learned_start", "with_start"]

_RATE = "learning_rates.rate"


class FineTuned(ABC):
    """A phi to start from, fine-tuned by the search's own inner loop, with its rate or with the best of several.

    Args:
        config: its settings.
        problem: the tasks, and the learner it is compared with.
        split: what is measured on.

    Raises:
        UnsupportedError: if rates are given for a learner without an inner loop.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            rates: learning rates to choose from, one for all parameters and steps, by the loss on validation tasks;
                none means the rates of the search's inner loop as they start out.
            episodes: validation tasks that the choice is made on.
        """

        rates: tuple[PositiveFloat, ...] = ()
        episodes: PositiveInt = 200

    name: ClassVar[str]

    def __init__(self, config: Any, problem: Problem, split: str) -> None:
        self.config, self._problem = config, problem
        self.learner: Learner = problem.learner({}, split)
        if config.rates:
            if not isinstance(self.learner, InnerLoop):
                raise UnsupportedError(f"test.baselines.{self.name}.rates", "are for learners with an inner loop")
            slots = {**self.learner.config.slots, "learning_rates": {"type": "shared", "init": config.rates[0]}}
            settings = self.learner.config.model_copy(update={"slots": slots})
            self.learner = InnerLoop(settings, self.learner.spec)
            try:
                problem.tasks.spec("validation")
            except ConfigError as error:
                raise error.under(f"test.baselines.{self.name}.rates") from None

    @abstractmethod
    def start(self, seed: int) -> Phi:
        """The phi that fine-tuning starts from."""

    def prepare(self, seed: int) -> Phi:
        """The start, with the best of the rates."""
        return self.tuned(self.start(seed), seed)

    def tuned(self, phi: Phi, seed: int) -> Phi:
        """A start with the best of the rates, which depends on the number of inner steps."""
        if not self.config.rates:
            return phi
        found = [_with_rate(phi, rate) for rate in self.config.rates]
        losses = [self._loss(one, seeding.derive(seed, "rates")) for one in found]
        return min(zip(losses, found, strict=True), key=lambda one: one[0] if one[0] == one[0] else float("inf"))[1]

    def _loss(self, phi: Phi, seed: int) -> float:
        problem, learner = self._problem, self.learner
        here = Problem(problem.tasks, lambda choices, split: learner, problem.device, problem.dtype)
        value = Value(Value.Config(tasks=self.config.episodes, shard=min(25, self.config.episodes)), here)
        return value.combine([value.measure(call) for call in value.calls(0, phi, None, seed, "validation")])[0].value


def learned_start(learner: Learner, name: str) -> InnerLoop:
    """The learner, if its inner loop starts from a learned initialization.

    Raises:
        UnsupportedError: if it does not.
    """
    initialization = getattr(learner, "slots", {}).get("initialization")
    if not isinstance(learner, InnerLoop) or not isinstance(initialization, LearnedInitialization):
        raise UnsupportedError("test.baselines", f"{name!r} needs an inner loop with a learned initialization")
    return learner


def with_start(phi: Phi, parameters: Tensors, buffers: Tensors) -> Phi:
    """A phi with those of the given initial values that fit it (the head for other outputs does not)."""

    def filled(present: Tensors, given: Tensors) -> Tensors:
        named = {f"initialization.{name}": value for name, value in given.items()}
        return {
            name: named[name].detach().to("cpu", value.dtype)
            if name in named and named[name].shape == value.shape
            else value
            for name, value in present.items()
        }

    return phi.replace(tensors=filled(phi.tensors, parameters), buffers=filled(phi.buffers, buffers))


def _with_rate(phi: Phi, rate: float) -> Phi:
    return phi.replace(tensors={**phi.tensors, _RATE: phi.tensors[_RATE].new_tensor(rate)})
