"""Types that experiment files may name before the package has them: just enough to be checked."""

from __future__ import annotations

from typing import Any, ClassVar

from probes import Supernet
from pydantic import Field, PositiveInt

from metasearch.components import Component
from metasearch.components.initialization import LearnedInitialization
from metasearch.core.config import Config as BaseConfig
from metasearch.core.registry import register
from metasearch.core.space import Choice, Space
from metasearch.core.values import Measurement, Phi
from metasearch.objective import TrialCalls

register("model", "supernet")(Supernet)
register("slot.initialization", "shared_tensors")(LearnedInitialization)


@register("slot.augmentation", "sub_policies")
class SubPolicies(Component):
    class Config(BaseConfig):
        count: PositiveInt = 5
        ops: PositiveInt = 2

    def space(self) -> Space:
        return Space(
            {
                f"{policy}.{op}.{name}": dimension
                for policy in range(self.config.count)
                for op in range(self.config.ops)
                for name, dimension in {
                    "kind": Choice(("rotate", "shear")),
                    "magnitude": Choice((1, 2, 3)),
                    "probability": Choice((0.0, 0.5, 1.0)),
                }.items()
            }
        )


@register("learner", "training")
class TrainingLearner:
    class Config(BaseConfig):
        model: dict[str, Any]
        slots: dict[str, dict[str, Any]] = Field(default_factory=dict)

    def __init__(self, config: Any, spec: Any, choices: Any = None) -> None:
        self.config = config
        parts = SubPolicies(
            SubPolicies.Config(**{k: v for k, v in config.slots["augmentation"].items() if k != "type"}), None
        )
        self._space = Space({f"slots.augmentation.{name}": one for name, one in parts.space().dimensions.items()})

    def space(self) -> Space:
        return self._space

    def init(self, seed: int) -> Phi:
        return Phi()


@register("evaluation", "training")
class TrainingRuns(TrialCalls):
    class Config(BaseConfig):
        epochs: PositiveInt
        report_every: PositiveInt = 1

    takes_test: ClassVar[bool] = True

    def __init__(self, config: Any, program: Any) -> None:
        self.config = config

    def run(self, call: Any, trial: Any) -> Measurement:
        raise AssertionError("a sketch is checked, not run")
