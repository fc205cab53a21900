"""Which searcher decides what: the owner of each choice and of each slot's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metasearch.core.errors import ConfigError, UnsupportedError, nearest
from metasearch.core.registry import registry
from metasearch.core.space import Space
from metasearch.schema import ExperimentFile

__all__ = ["choice_owners", "reward_split", "searcher_class", "slot_owners"]


def searcher_class(name: str, settings: Any) -> Any:
    """The class of the searcher ``name``.

    Raises:
        ConfigError: if its settings name none that there is.
    """
    kind = settings.get("type") if isinstance(settings, Mapping) else settings
    if kind is None:
        raise ConfigError(f"searchers.{name}.type", f"is required; {nearest('', registry('searcher'))}")
    return registry("searcher").get(kind, f"searchers.{name}.type")


def choice_owners(file: ExperimentFile, space: Space, named: Mapping[str, str | None]) -> dict[str, str]:
    """The searcher of each choice: the one it names, else its slot's, else the only one that takes choices."""
    takers = [name for name, settings in file.searchers.items() if not searcher_class(name, settings).needs_gradient]
    owners: dict[str, str] = {}
    for name in space:
        owner = named.get(name) or _owner_of_slot(file, name)
        if owner is None and not takers:
            raise UnsupportedError(name, "is a range, and no searcher takes choices; add one (optuna, random, policy)")
        if owner is None and len(takers) != 1:
            raise ConfigError(
                name, f"must name its searcher (searcher: ...), since {len(takers)} take choices: {takers}"
            )
        owners[name] = owner or takers[0]
        if owners[name] not in file.searchers:
            raise ConfigError(name, f"names the searcher {owners[name]!r}; {nearest(owners[name], file.searchers)}")
    return owners


def _owner_of_slot(file: ExperimentFile, path: str) -> str | None:
    parts = path.split(".")
    if parts[:2] != ["learner", "slots"] or len(parts) < 3 or not isinstance(file.learner, Mapping):
        return None
    owner = file.learner.get("slots", {}).get(parts[2], {}).get("searcher")
    return None if owner is None else str(owner)


def slot_owners(file: ExperimentFile) -> dict[str, str]:
    """The gradient searcher of each slot that names one; the others belong to the only gradient searcher there is."""
    owners: dict[str, str] = {}
    slots = file.learner.get("slots", {}) if isinstance(file.learner, Mapping) else {}
    for slot, settings in slots.items():
        owner = settings.get("searcher") if isinstance(settings, Mapping) else None
        if owner is None:
            continue
        if owner not in file.searchers:
            raise ConfigError(
                f"learner.slots.{slot}.searcher", f"no searcher {owner!r}; {nearest(owner, file.searchers)}"
            )
        if searcher_class(owner, file.searchers[owner]).needs_gradient:
            owners[slot] = owner
    return owners


def reward_split(settings: Any) -> str | None:
    """The split that rewards a searcher, if its settings name one."""
    return settings.get("reward_split") if isinstance(settings, Mapping) else None
