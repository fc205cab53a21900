"""How far the inner loop steps: the learning-rate slot.

A rate is per inner step, in units of parameter per gradient. Learned rates differ in what shares one: all parameters, a
layer, a tensor, or nothing; with ``per_step`` each inner step has rates of its own.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt
from torch import Tensor

from metasearch.components.base import Component, Context
from metasearch.core import seeds as seeding
from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError
from metasearch.core.values import Tensors
from metasearch.optim import schedule

__all__ = [
    "FixedRate",
    "LearnedRates",
    "PerLayerRates",
    "PerParameterRates",
    "PerTensorRates",
    "ScheduledRate",
    "SharedRate",
]


class FixedRate(Component):
    """One rate for all parameters, set by hand or by a searcher of choices."""

    class Config(BaseConfig):
        """Settings.

        Args:
            value: the rate.
            later: the rate of all steps after the first; None means the same.
        """

        value: float = Field(gt=0.0)
        later: float | None = Field(default=None, gt=0.0)

    def rates(self, values: Tensors, rates: Tensors, step: int) -> Tensors:
        now = self.config.value if step == 0 or self.config.later is None else self.config.later
        rate = torch.tensor(now, dtype=torch.float64)  # 0-dim: takes the dtype of what it multiplies
        return dict.fromkeys(self.context.adapted, rate)


class ScheduledRate(Component):
    """One rate for all parameters, which follows a curve over the inner steps of training (a cosine, for example).

    Raises:
        ConfigError: if there is no such curve.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            schedule: the curve (see :func:`metasearch.optim.schedule`): ``{type: warmup_cosine, peak: 0.01, ...}``.
            steps: over how many inner steps it is laid, after which its last rate stays; None means those of training.
        """

        schedule: dict[str, Any]
        steps: PositiveInt | None = None

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self._rates = schedule(config.schedule).rates(config.steps or context.steps)

    def rates(self, values: Tensors, rates: Tensors, step: int) -> Tensors:
        rate = torch.tensor(self._rates[min(step, len(self._rates) - 1)], dtype=torch.float64)
        return dict.fromkeys(self.context.adapted, rate)


def _interval(value: Any) -> Any:
    """A number stands for the interval that holds nothing else."""
    return (value, value) if isinstance(value, int | float) else value


def _positive(value: tuple[float, float]) -> tuple[float, float]:
    if not 0.0 < value[0] <= value[1] < math.inf:
        raise ConfigError("", f"expected a positive rate or [low, high] with 0 < low <= high, got {list(value)}")
    return value


Start = Annotated[tuple[float, float], BeforeValidator(_interval), AfterValidator(_positive)]


class LearnedRates(Component):
    """Rates that are part of phi and may become negative; a subclass says which parameters share one.

    With ``per_step``, a loop that takes more steps than training did repeats the rates of training's last step.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            init: the rate that learning starts from, or ``[low, high]``: each starts from a draw of its own between.
            per_step: each inner step of training has rates of its own.
        """

        init: Start
        per_step: bool = False

    @abstractmethod
    def key(self, name: str) -> str:
        """Under which name the rate of a parameter is kept; parameters of one key share it."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter's rate: a single number, unless a subclass says otherwise."""
        return ()

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        steps = (self.context.steps,) if self.config.per_step else ()
        shapes = {self.key(name): (*steps, *self.shape(name)) for name in self.context.adapted}
        return {key: self._drawn(shape, seeding.derive(seed, key)) for key, shape in shapes.items()}, {}

    def rates(self, values: Tensors, rates: Tensors, step: int) -> Tensors:
        now = values
        if self.config.per_step:
            now = {key: value[min(step, self.context.steps - 1)] for key, value in values.items()}
        return {name: now[self.key(name)] for name in self.context.adapted}

    def _drawn(self, shape: tuple[int, ...], seed: int) -> Tensor:
        low, high = self.config.init
        if low == high:
            return torch.full(shape, low)
        drawn = seeding.Draws([seed]).uniform(math.prod(shape), low, high)
        return torch.from_numpy(drawn).to(torch.float32).reshape(shape)


class SharedRate(LearnedRates):
    """One learned rate for all parameters."""

    def key(self, name: str) -> str:
        return "rate"


class PerLayerRates(LearnedRates):
    """One learned rate for each layer: parameters are of one layer if their names agree up to the last dot.

    With ``per_step``, the rates of MAML++ as its paper describes them; Antoniou, Edwards, Storkey 2019,
    arXiv:1810.09502, Sec. 4.
    """

    def key(self, name: str) -> str:
        return name.rpartition(".")[0] or name


class PerTensorRates(LearnedRates):
    """One learned rate for each parameter tensor, so that weight and bias of a layer have their own.

    With ``per_step``, the LSLR of MAML++'s published code (arXiv:1810.09502), where the paper has one rate a layer.
    """

    def key(self, name: str) -> str:
        return name


class PerParameterRates(LearnedRates):
    """One learned rate for each single number.

    Meta-SGD; Li et al. 2017, arXiv:1707.09835, which draws the first rates from U[0.005, 0.1].
    """

    def key(self, name: str) -> str:
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        return self.context.shapes[name]
