"""What the benchmarks of few-shot learners have in common: tasks, a network of torch's own layers, learn2learn."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metasearch.core.contracts import Learner
from metasearch.core.values import Call, Estimate, Phi, Tensors
from metasearch.estimators.compile import CompileMode
from metasearch.estimators.episodes import EpisodeEstimator, Problem
from metasearch.tasks.base import FewShot

__all__ = [
    "add_task_arguments",
    "estimates",
    "importable",
    "norm_of",
    "part_of",
    "sampler",
    "task_seeds",
    "torch_network",
]


def add_task_arguments(parser: argparse.ArgumentParser, *, ways: int, queries: int, tasks: int, shard: int) -> None:
    """The options that say what a step computes."""
    parser.add_argument("--ways", type=int, default=ways)
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--queries", type=int, default=queries, help="query images a class")
    parser.add_argument("--tasks", type=int, default=tasks, help="episodes of a step")
    parser.add_argument("--shard", type=int, default=shard, help="episodes that ours computes at once")
    parser.add_argument("--filters", type=int, default=64)


def sampler(arguments: argparse.Namespace) -> FewShot:
    """Episodes of random drawings of 28 x 28 pixels: the time does not depend on what they show."""
    drawings = np.random.default_rng(0).integers(0, 2, (200, 20, 1, 28, 28), dtype=np.uint8) * 255
    return FewShot({"train": drawings}, ways=arguments.ways, shots=arguments.shots, queries=arguments.queries)


def task_seeds(arguments: argparse.Namespace) -> Iterator[tuple[int, ...]]:
    """The episodes of one step after the other."""
    first = 0
    while True:
        yield tuple(range(first, first + arguments.tasks))
        first += arguments.tasks


def estimates(
    arguments: argparse.Namespace,
    learner: Learner,
    kind: type[EpisodeEstimator],
    phi: Callable[[], Phi],
    compile_: CompileMode = "never",
    **settings: Any,
) -> Iterator[Estimate]:
    """What an estimator finds at ``phi()`` in one step after the other, as the workers of a search compute it."""
    problem = Problem(sampler(arguments), lambda choices, split: learner, compile=compile_)
    estimator = kind(kind.Config(tasks=arguments.tasks, shard=arguments.shard, **settings), problem)
    carried: list[Any] | None = None
    for drawn in task_seeds(arguments):
        shards = [drawn[i : i + arguments.shard] for i in range(0, len(drawn), arguments.shard)]
        kept = carried or [None] * len(shards)
        calls = [
            Call(0, index, "train", phi(), shard, 0, "train", carried=one)
            for index, (shard, one) in enumerate(zip(shards, kept, strict=True))
        ]
        estimate, carried = estimator.combine([estimator.measure(call) for call in calls])
        yield estimate


def norm_of(gradients: list[Tensor]) -> float:
    return float(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt())


def torch_network(
    filters: int,
    initial: Tensors,
    *,
    pool: str = "max",
    running: bool = True,
    outputs: int | None = None,
    flat: bool = False,
) -> nn.Sequential:
    """Four blocks of torch's own layers with the initial parameters of one of ours, and a linear head where ``outputs``
    are given: over means of the last maps, or over these maps where it is ``flat``.
    """
    layers: list[nn.Module] = []
    for inputs in (1, *(filters,) * 3):
        conv = nn.Conv2d(inputs, filters, 3, stride=1 if pool == "max" else 2, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(filters, track_running_stats=running), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool == "max" else []
    layers += [nn.Flatten()] if outputs is None or flat else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    features = initial["head.weight"].shape[1] if "head.weight" in initial else filters
    module = nn.Sequential(*layers, *([] if outputs is None else [nn.Linear(features, outputs)]))
    with torch.no_grad():  # what is initial beyond these belongs to parts of ours that the network does not have
        for parameter, value in zip(module.parameters(), initial.values(), strict=False):
            assert parameter.shape == value.shape
            parameter.copy_(value)
    return module


def importable(name: str) -> bool:
    """Whether a peer can be imported; says so if not."""
    if importlib.util.find_spec(name) is None:
        print(f"{name} is not importable: left out (put its checkout on PYTHONPATH to compare)")
        return False
    return True


def part_of(package: str, module: str) -> Any:
    """A module of an installed package, or of a mere checkout, whose compiled parts are not needed."""
    try:
        return importlib.import_module(f"{package}.{module}")
    except ImportError:
        found = importlib.util.find_spec(package)
        assert found is not None
        assert found.submodule_search_locations is not None
        folder, name = Path(*found.submodule_search_locations), package
        for inner in ["", *module.split(".")[:-1]]:
            folder, name = (folder / inner, f"{name}.{inner}") if inner else (folder, name)
            shell = types.ModuleType(name)
            shell.__path__ = [str(folder)]
            sys.modules[name] = shell
        return importlib.import_module(f"{package}.{module}")
