"""Commands about what comes with the package: data sets, recipes, learned optimizers."""

from __future__ import annotations

from argparse import Namespace
from importlib import resources

import yaml

from metasearch.core.errors import ConfigError, nearest
from metasearch.display.figures import place

__all__ = ["datasets", "optimizers", "recipes"]


def datasets(given: Namespace) -> int:
    """``metasearch datasets [list]`` and ``metasearch datasets get NAME``."""
    from metasearch.tasks import datasets as known

    if given.action == "get":
        if given.name is None:
            raise ConfigError("", f"which data set? {nearest('', known.DATASETS)}")
        dataset = known.describe(given.name)
        if known.place(given.name) is None:
            print(f"fetching {dataset.title}\n  from {dataset.source}\n  licence: {dataset.licence}", flush=True)
        print(place(known.get(given.name)))
        return 0
    if given.name is not None:
        raise ConfigError(
            "", f"list takes no name, got {given.name!r}; did you mean: metasearch datasets get {given.name}"
        )
    for name, dataset in known.DATASETS.items():
        found = known.place(name)
        where = f"{place(found[1])} ({found[0]})" if found else f"not here; fetch it: metasearch datasets get {name}"
        print(f"{name}: {dataset.title}\n  {where}\n  licence: {dataset.licence}\n  source: {dataset.source}")
    return 0


def recipes(given: Namespace) -> int:
    """``metasearch recipes``."""
    from metasearch import recipes as known

    width = max(map(len, known.names()), default=0)
    for name in known.names():
        recipe = yaml.safe_load(resources.files(known).joinpath(f"{name}.yaml").read_text("utf-8"))
        print(f"{name:<{width}}  {recipe.get('about', '')}")
    print("\nuse one with learner: {recipe: NAME, ...}; `metasearch check FILE` prints what it stands for")
    return 0


def optimizers(given: Namespace) -> int:
    """``metasearch optimizers [NAME]``."""
    from metasearch.artifacts import shipped

    if given.name is not None:
        print(shipped.card(given.name).rstrip())
        return 0
    known = shipped.optimizers()
    width = max(map(len, known), default=0)
    for name, about in known.items():
        print(f"{name:<{width}}  {about}")
    print(
        "\nuse one with metasearch.LearnedOptimizer(NAME, model.parameters()); `metasearch optimizers NAME` tells more"
    )
    return 0
