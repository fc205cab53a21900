"""Tables of architectures that others have trained: a search over one costs a look-up where it would cost a training.

Dong and Yang 2020, "NAS-Bench-201: extending the scope of reproducible neural architecture search", arXiv 2001.00326;
Su et al. 2021, "Prioritized architecture sampling with Monto-Carlo tree search", CVPR (NAS-Bench-Macro).
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from metasearch.core.errors import ConfigError, DataError, nearest
from metasearch.core.space import Choice, Space
from metasearch.tasks import datasets

__all__ = ["OPERATIONS", "TABLES", "NasTable", "load"]

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""What an edge of a NAS-Bench-201 cell can be, by the digit of the table."""

_EDGES = ("edge_0_1", "edge_0_2", "edge_1_2", "edge_0_3", "edge_1_3", "edge_2_3")
_BLOCKS = ("identity", "mb3_k3", "mb6_k5")
_201 = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16-120": "imagenet"}

TABLES: dict[str, tuple[str, ...]] = {"nasbench201": tuple(_201), "nasbenchmacro": ("cifar10",)}
"""The data sets that the architectures of each table were trained on."""


@dataclass(frozen=True)
class NasTable:
    """All architectures of a space, in the order of its digits (the first dimension is the highest digit).

    Args:
        space: one choice for each edge or layer.
        validation: ``[n]`` accuracy as a share of 1: what a search may see.
        test: ``[n]`` accuracy as a share of 1, from other trainings than ``validation``: what a search is scored by.
        costs: further columns ``[n]`` (``parameters`` and ``flops`` of NAS-Bench-Macro).
    """

    space: Space
    validation: NDArray[np.float64]
    test: NDArray[np.float64]
    costs: Mapping[str, NDArray[np.float64]]

    def row(self, choices: Mapping[str, object]) -> int:
        """The place of an architecture in the table."""
        row = 0
        for name, dimension in self.space.dimensions.items():
            row = row * int(dimension.count) + dimension.values().index(choices[name])  # type: ignore[arg-type]
        return row


@lru_cache(maxsize=4)
def load(name: str, dataset: str = "cifar10") -> NasTable:
    """A table, with the accuracies on one data set.

    ``nasbench201``: 15,625 cells of six edges, each trained for 12 epochs; validation and test columns as published
    (for CIFAR-10 they come from trainings on different sets). ``nasbenchmacro``: 6,561 networks of eight blocks, each
    trained three times on CIFAR-10, without a validation set: the first run stands for validation, the mean of the
    other two for the test.

    Raises:
        ConfigError: for a name or a data set that is not there.
        DataError: if the file is missing or is not the table.
    """
    if name not in TABLES:
        raise ConfigError("table", f"unknown table {name!r}; {nearest(name, TABLES)}")
    if dataset not in TABLES[name]:
        raise ConfigError("dataset", f"{name} has no {dataset!r}; {nearest(dataset, TABLES[name])}")
    if name == "nasbench201":
        space = Space({edge: Choice(OPERATIONS) for edge in _EDGES})
        columns = _columns(name, "nasbench201_12epochs.csv.gz", "cell", space)
        prefix = _201[dataset]
        return NasTable(space, columns[f"{prefix}-val"] / 100, columns[f"{prefix}-test"] / 100, {})
    space = Space({f"layer_{layer}": Choice(_BLOCKS) for layer in range(1, 9)})
    columns = _columns(name, "nasbenchmacro_cifar10.csv.gz", "arch", space)
    test = (columns["acc_run2"] + columns["acc_run3"]) / 200
    costs = {"parameters": columns["params"], "flops": columns["flops"]}
    return NasTable(space, columns["acc_run1"] / 100, test, costs)


def _columns(name: str, file: str, key: str, space: Space) -> dict[str, NDArray[np.float64]]:
    """The columns of numbers by name, rows in the order of the architectures' digits."""
    path = datasets.locate(name) / file
    try:
        with gzip.open(path, "rt", encoding="ascii", newline="") as stream:
            rows = sorted(csv.DictReader(stream), key=lambda row: row[key])
        numbers = {
            column: np.array([float(row[column]) for row in rows])
            for column in (rows[0] if rows else {})
            if column != key
        }
    except (OSError, EOFError, UnicodeDecodeError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read as a table ({error}); delete it or point to an intact copy") from error
    if len({row[key] for row in rows}) != int(space.size):
        raise DataError(f"{path}: expected {int(space.size)} different architectures, got {len(rows)} rows")
    return numbers
