"""The schedule that a population of training runs found, for a training loop of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from metasearch.artifacts import Manifest
from metasearch.core.errors import ArtifactError
from metasearch.optim import StepRates
from metasearch.takeaway.rebuild import plain_config

__all__ = ["FoundSchedule", "found_schedule", "schedule_length"]


class FoundSchedule:
    """Settings over the course of a training run: pieces, each in force from a step on.

    Args:
        pieces: ``from`` (units of budget already done) and ``choices`` each, in order.
        steps: budget of a whole run.
        settings: what the training function is given, ranges included.

    Example:
        >>> rate = {"lr": {"float": [0.0, 1.0]}, "width": 8}
        >>> pieces = [{"from": 0, "choices": {"lr": 0.5}}, {"from": 3, "choices": {"lr": 0.1}}]
        >>> found = FoundSchedule(pieces, 5, rate, prefix="")
        >>> found.config(3)
        {'lr': 0.1, 'width': 8}
        >>> found.curve("lr")
        [0.5, 0.5, 0.5, 0.1, 0.1]
    """

    def __init__(
        self, pieces: Sequence[Mapping[str, Any]], steps: int, settings: Mapping[str, Any], *, prefix: str = ""
    ) -> None:
        self.steps = steps
        self.pieces: list[tuple[int, dict[str, Any]]] = []
        for one in pieces:
            own = {
                name.removeprefix(prefix): value for name, value in one["choices"].items() if name.startswith(prefix)
            }
            self.pieces.append((int(one["from"]), plain_config(settings, own)))

    def config(self, step: int) -> dict[str, Any]:
        """What the training function is given after ``step`` units of budget; later steps have the last settings."""
        return dict(next(config for start, config in reversed(self.pieces) if start <= max(step, 0)))

    def curve(self, name: str) -> list[Any]:
        """A setting's values, one for each unit of budget.

        Raises:
            ArtifactError: if there is no such setting.
        """
        if name not in self.pieces[0][1]:
            raise ArtifactError(f"the schedule has no setting {name!r}; it has: {', '.join(self.pieces[0][1])}")
        return [self.config(step)[name] for step in range(self.steps)]

    def apply(self, optimizer: Optimizer, step: int) -> dict[str, Any]:
        """Puts the settings that an optimizer's param groups have by the same names (``lr``, ``weight_decay`` ...) into
        all of them.

        Args:
            optimizer: whose groups are changed.
            step: units of budget already done: 0 at the start of the first one.

        Returns:
            What was put there.

        Raises:
            ArtifactError: if no setting has the name of one of the groups'.
        """
        config = self.config(step)
        known = {name: value for name, value in config.items() if name in optimizer.param_groups[0]}
        if not known:
            raise ArtifactError(
                f"none of the settings ({', '.join(config)}) is one of the optimizer's "
                f"({', '.join(optimizer.defaults)}); take them from .config(step)"
            )
        for group in optimizer.param_groups:
            group.update({name: value for name, value in known.items() if name in group})
        return known

    def scheduler(self, optimizer: Optimizer, steps: int | None = None, *, name: str = "lr") -> StepRates:
        """The learning rate alone, as an LR scheduler.

        Args:
            optimizer: all its groups get the rate.
            steps: calls of ``scheduler.step()`` in a whole run, over which the schedule is stretched; None means one a
                unit of budget.
            name: of the setting that is the rate.
        """
        rates = self.curve(name)
        scale = 1.0 if steps is None else self.steps / steps
        groups = len(optimizer.param_groups)
        return StepRates(optimizer, lambda step: [float(rates[min(int(step * scale), len(rates) - 1)])] * groups)

    def __len__(self) -> int:
        return self.steps

    def __repr__(self) -> str:
        return f"FoundSchedule({len(self.pieces)} pieces over {self.steps} steps: {', '.join(self.pieces[0][1])})"


def found_schedule(manifest: Manifest) -> FoundSchedule:
    """The schedule that a manifest holds.

    Raises:
        ArtifactError: if it holds none.
    """
    if not manifest.schedule:
        raise ArtifactError(
            "this phi holds no schedule over a training run; searches with scheduler: {type: pbt} or {type: pb2} find "
            "one. What was chosen once and for all is in .choices"
        )
    evaluation = manifest.config.get("evaluation") or {}
    given, prefix = (
        (evaluation["config"], "evaluation.config.") if "config" in evaluation else (evaluation, "evaluation.")
    )
    settings = {name: value for name, value in (given or {}).items() if given is not evaluation or name != "type"}
    return FoundSchedule(manifest.schedule, schedule_length(manifest), settings, prefix=prefix)


def schedule_length(manifest: Manifest) -> int:
    """Units of budget in a whole training run of a search that found a schedule."""
    return int((manifest.config.get("scheduler") or {}).get("max", manifest.schedule[-1]["from"] + 1))
