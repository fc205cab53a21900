"""An evaluation that looks an architecture up in a table of trained ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from metasearch.core.config import Config as BaseConfig
from metasearch.core.space import Space
from metasearch.core.values import Call, Measurement
from metasearch.evaluation.single import SingleCall
from metasearch.tasks import nas_tables

__all__ = ["Table"]


class Table(SingleCall):
    """L is the share of errors in validation; the test, taken after the stop, has its own column.

    The table is the space: it declares one choice for each part of an architecture.

    Args:
        config: its settings.
        program: the worker's program, of which it needs nothing.

    Raises:
        ConfigError: if there is no such table.
        DataError: if its file is missing or damaged.
    """

    takes_test = True

    class Config(BaseConfig):
        """Settings.

        Args:
            table: ``nasbench201`` (12 epochs) or ``nasbenchmacro``.
            dataset: what the architectures were trained on: ``cifar10`` or, for ``nasbench201``, ``cifar100`` and
                ``imagenet16-120``.
        """

        table: str
        dataset: str = "cifar10"

    def __init__(self, config: Config, program: Any = None) -> None:
        self.table = nas_tables.load(config.table, config.dataset)

    def space(self) -> Space:
        """The choices that make an architecture."""
        return self.table.space

    def measure(self, call: Call) -> Measurement:
        """The errors of an architecture: in validation for calls of the split ``train``, else in the test."""
        choices = {name.removeprefix("evaluation."): value for name, value in call.phi.choices.items()}
        row = self.table.row(choices)
        accuracy = (self.table.validation if call.split == "train" else self.table.test)[row]
        error = np.array([1.0 - accuracy])
        costs = {name: column[[row]] for name, column in self.table.costs.items()}
        return Measurement(error, error, {"accuracy": np.array([accuracy]), **costs})
