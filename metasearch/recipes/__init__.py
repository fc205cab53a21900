"""Recipes: a paper's name as slots, an estimator and defaults. A recipe is a YAML file of this folder, never a loop."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml

from metasearch.core.config import overlay
from metasearch.core.errors import ConfigError, nearest

__all__ = ["expand", "names"]


def names() -> list[str]:
    """Names of all recipes."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files(__name__).iterdir()
        if entry.name.endswith(".yaml")
    )


def expand(tree: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment with ``learner.recipe`` replaced by what the recipe stands for.

    What the experiment says itself wins.

    Raises:
        ConfigError: if there is no such recipe.
    """
    learner = tree.get("learner")
    if not isinstance(learner, Mapping) or "recipe" not in learner:
        return dict(tree)
    name = str(learner["recipe"])
    if name not in names():
        raise ConfigError("learner.recipe", f"unknown recipe {name!r}; {nearest(name, names())}")
    recipe = yaml.safe_load(resources.files(__name__).joinpath(f"{name}.yaml").read_text("utf-8"))
    recipe.pop("about", None)
    own = {key: value for key, value in learner.items() if key != "recipe"}
    return overlay(recipe, {**tree, "learner": own})
