"""Learned rates of an inner loop, and learned schedules of a training run, for one's own module and optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metasearch.artifacts import Manifest, refuse_user_code
from metasearch.components.update_rule import Sgd
from metasearch.core.errors import ArtifactError
from metasearch.core.values import Phi, Tensors
from metasearch.optim import ElementwiseSGD, Schedule, schedule
from metasearch.takeaway.rebuild import plain_config

__all__ = ["elementwise_sgd", "group_rates", "param_groups", "schedule_of"]

Groups = list[dict[str, Any]]


def param_groups(learner: Any, phi: Phi, module: nn.Module, step: int, rest: float | None, average: bool) -> Groups:
    """See :meth:`metasearch.loaded.LoadedPhi.param_groups`."""
    rows = _rows(learner, phi, average)
    here = _parameters(module, rows[0])
    shared: dict[tuple[float, ...], list[str]] = {}
    for name in here:
        shared.setdefault(tuple(float(row[name]) for row in rows), []).append(name)
    at = min(step, len(rows) - 1)
    groups: Groups = [
        {"params": [here[name] for name in names], "lr": rates[at], "param_names": names}
        for rates, names in shared.items()
    ]
    others = {name: value for name, value in module.named_parameters() if name not in here}
    if others and rest is not None:
        groups.append({"params": list(others.values()), "lr": rest, "param_names": list(others)})
    return groups


def group_rates(learner: Any, phi: Phi, optimizer: Optimizer) -> Callable[[int], Sequence[float]]:
    """The rates of an optimizer's groups at each step, for groups that :func:`param_groups` made.

    Raises:
        ArtifactError: if a group does not name its parameters, or mixes ones of different rates.
    """
    if isinstance(optimizer, ElementwiseSGD):
        raise ArtifactError("what .sgd(module) makes goes through the steps' rates by itself; it needs no scheduler")
    rows = _rows(learner, phi, average=True)  # groups of tensors with many rates were made of their means
    found: list[list[float]] = []
    for group in optimizer.param_groups:
        names = group.get("param_names")
        if names is None:
            raise ArtifactError(
                "a param group does not name its parameters; make the groups with .param_groups(module)"
            )
        known = [name for name in names if name in rows[0]]
        tables = {tuple(float(row[name]) for row in rows) for name in known}
        if len(tables) > 1 or 0 < len(known) < len(names):
            raise ArtifactError(
                f"the parameters {', '.join(names)} are in one group and have different learned rates; make groups "
                "with .param_groups(module)"
            )
        found.append(list(tables.pop()) if tables else [float(group["lr"])])
    return lambda step: [rates[min(step, len(rates) - 1)] for rates in found]


def elementwise_sgd(learner: Any, phi: Phi, module: nn.Module) -> ElementwiseSGD:
    """See :meth:`metasearch.loaded.LoadedPhi.sgd`."""
    rule = getattr(learner, "slots", {}).get("update_rule")
    if rule is not None and not isinstance(rule, Sgd):
        raise ArtifactError(f"the inner loop of this phi moves by {type(rule).__name__}, which is no gradient descent")
    rows = _table(learner, phi)
    here = _parameters(module, rows[0])
    return ElementwiseSGD(here, {name: _stacked([row[name] for row in rows]) for name in here})


def schedule_of(manifest: Manifest, phi: Phi, name: str, *, allow_user_code: bool = False) -> Schedule:
    """The curve of rates that a search over training runs chose.

    Args:
        manifest: of the stored phi.
        phi: its choices fill the ranges.
        name: under which the training function's settings hold the curve.
        allow_user_code: whether modules that the manifest names may be imported.

    Raises:
        ArtifactError: if there is no such setting, or it needs a user's code without leave to import it.
    """
    evaluation = manifest.config.get("evaluation")
    settings = evaluation.get("config") if isinstance(evaluation, Mapping) else None
    if not isinstance(settings, Mapping) or name not in settings:
        held = ", ".join(settings) if isinstance(settings, Mapping) and settings else "none"
        raise ArtifactError(
            f"this phi has no rates that change with the step, and its search no setting {name!r} that describes a "
            f"schedule (settings: {held})"
        )
    plain = plain_config({"evaluation": {"config": settings}}, phi.choices)["evaluation"]["config"][name]
    refuse_user_code(plain, allow_user_code=allow_user_code)
    return schedule(plain)


def _rows(learner: Any, phi: Phi, average: bool) -> list[Tensors]:
    """One number a parameter, for each inner step."""
    rows = _table(learner, phi)
    wide = sorted({name for row in rows for name, rate in row.items() if rate.numel() > 1})
    if wide and not average:
        raise ArtifactError(
            f"{', '.join(wide)} have a learned rate for each single number, which a param group cannot hold; take "
            ".sgd(module), an optimizer that can, or average=True for the mean rate of each tensor"
        )
    return [{name: rate.mean() for name, rate in row.items()} for row in rows]


def _table(learner: Any, phi: Phi) -> list[Tensors]:
    """The rates of each inner step of training and of test by parameter name."""
    if not hasattr(learner, "rates"):
        raise ArtifactError(f"{type(learner).__name__} takes no inner steps, so there are no rates")
    steps = max(learner.n_steps(train=True), learner.n_steps(train=False), 1)
    rows: list[Tensors] = [learner.rates(phi, step) for step in range(steps)]
    if not rows[0]:
        raise ArtifactError("the inner loop of this phi has no learning rates; its update rule needs none")
    return rows


def _stacked(rates: list[Tensor]) -> Tensor:
    """``[steps, ...]``, without the steps at the end that repeat the one before."""
    while len(rates) > 1 and torch.equal(rates[-1], rates[-2]):
        rates = rates[:-1]
    return torch.stack(rates)


def _parameters(module: nn.Module, rates: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """The module's parameters that have rates, in its own order."""
    here = dict(module.named_parameters())
    missing = [name for name in rates if name not in here]
    if missing:
        raise ArtifactError(
            f"the module {type(module).__name__} has no parameters {', '.join(missing)}, for which rates were learned; "
            "give the architecture that phi was learned with (.network() does)"
        )
    return {name: value for name, value in here.items() if name in rates}
