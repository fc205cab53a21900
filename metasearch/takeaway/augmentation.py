"""A learned policy of augmentation, for one's own training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metasearch.artifacts import Manifest, refuse_user_code
from metasearch.augment import Policy, design
from metasearch.components.augmentation import Augments
from metasearch.core.errors import ArtifactError, ConfigError
from metasearch.core.values import Phi
from metasearch.takeaway.found import schedule_length
from metasearch.takeaway.rebuild import build_learner, plain_config, spec_of

__all__ = ["policy_of"]

_PLACES = (("evaluation", "augmentation"), ("evaluation", "config", "augmentation"))
"""Where the settings of a search over training runs describe a policy."""


def policy_of(manifest: Manifest, phi: Phi, *, allow_user_code: bool = False) -> Policy:
    """The policy that a phi holds: of the slot of an inner loop, or of a search over training runs; where a population
    changed it on the way, the one that changes so.

    Args:
        manifest: of the stored phi.
        phi: its tensors or choices.
        allow_user_code: whether modules that the manifest names may be imported.

    Raises:
        ArtifactError: if no augmentation was searched, or what describes it cannot be built here.
    """
    slots = _at(manifest.config, ("learner", "slots"))
    if isinstance(slots, Mapping) and "augmentation" in slots:
        spec = spec_of(manifest, allow_user_code=allow_user_code)
        learner: Any = build_learner(manifest, phi.choices, spec, allow_user_code=allow_user_code)
        component = learner.slots["augmentation"]
        if not isinstance(component, Augments):
            raise ArtifactError(f"the slot augmentation of this phi is {type(component).__name__}, which has no policy")
        return component.policy(phi.part("augmentation"))
    for place in _PLACES:
        block = _at(manifest.config, place)
        if isinstance(block, Mapping | str):
            refuse_user_code({"augmentation": block}, allow_user_code=allow_user_code)
            prefix = ".".join(place)
            if not manifest.schedule:
                return _described(block, prefix, phi.choices)
            pieces = {one["from"]: _described(block, prefix, one["choices"]) for one in manifest.schedule}
            return _over_time(manifest, pieces)
    raise ArtifactError(
        "no augmentation was searched for here: no slot `augmentation` of a learner and no settings `augmentation` of "
        "an evaluation"
    )


def _over_time(manifest: Manifest, policies: Mapping[int, Policy]) -> Policy:
    """Policies, each in force from a step of the training on, as one."""
    steps = schedule_length(manifest)
    try:
        return Policy.in_turn([policies[max(start for start in policies if start <= step)] for step in range(steps)])
    except ConfigError as error:
        raise ArtifactError(f"the policies of this schedule do not make one: {error}; see .schedule") from error


def _described(block: Any, prefix: str, choices: Mapping[str, Any]) -> Policy:
    try:
        tree: Any = block
        for key in reversed(prefix.split(".")):
            tree = {key: tree}
        plain = _at(plain_config(tree, choices), tuple(prefix.split(".")))
        family = design(plain, prefix)
        own = {name.removeprefix(f"{prefix}."): value for name, value in choices.items()}
        return family.policy({name: own[name] for name in family.space() if name in own})
    except ConfigError as error:
        raise ArtifactError(f"the augmentation of this phi cannot be built here: {error}") from error


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
