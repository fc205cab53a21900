"""What every task distribution must do.

Inherit :class:`TaskContract`, give a ``tasks`` fixture, get the tests::

    class TestMine(TaskContract):
        @pytest.fixture
        def tasks(self):
            return Mine()
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from metasearch.core.contracts import TaskDistribution
from metasearch.core.errors import ConfigError
from metasearch.core.values import Task

__all__ = ["TaskContract"]

SEEDS = np.array([11, 5, 8, 1234567890123], dtype=np.int64)


class TaskContract:
    """The promises of :class:`~metasearch.core.contracts.TaskDistribution`, on every split."""

    splits: tuple[str, ...] = ("train", "validation", "test")

    @pytest.fixture
    def tasks(self) -> TaskDistribution:
        """The distribution under test."""
        raise LookupError("give a fixture `tasks` that returns the distribution to test")

    def test_tasks_have_the_shapes_that_the_spec_says(self, tasks: TaskDistribution) -> None:
        for split in self.splits:
            spec, task = tasks.spec(split), tasks.sample(split, SEEDS)
            assert len(task) == len(SEEDS)
            for batch, count in ((task.support, spec.support), (task.query, spec.query)):
                assert batch.x.shape == (len(SEEDS), count, *spec.input_shape)
                assert batch.x.is_floating_point()
                if spec.kind == "classification":
                    assert batch.y.shape == (len(SEEDS), count)
                    assert batch.y.dtype == torch.int64
                    assert set(batch.y.unique().tolist()) <= set(range(spec.outputs))
                elif spec.kind == "regression":
                    assert batch.y.shape == (len(SEEDS), count, spec.outputs)

    def test_the_same_seed_gives_the_same_task_whatever_its_neighbours(self, tasks: TaskDistribution) -> None:
        for split in self.splits:
            together, backwards = tasks.sample(split, SEEDS), tasks.sample(split, SEEDS[::-1].copy())
            for index, seed in enumerate(SEEDS):
                alone = tasks.sample(split, np.array([seed]))
                assert _equal(alone, 0, together, index)
                assert _equal(alone, 0, backwards, len(SEEDS) - 1 - index)

    def test_different_seeds_give_different_tasks(self, tasks: TaskDistribution) -> None:
        task = tasks.sample("train", SEEDS)
        same = [torch.equal(one[0], one[1]) for one in (task.support.x, task.support.y)]
        assert not all(same)

    def test_sampling_leaves_torch_s_global_generator_alone(self, tasks: TaskDistribution) -> None:
        before = torch.random.get_rng_state()
        tasks.sample("train", SEEDS)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_an_unknown_split_is_refused_by_name(self, tasks: TaskDistribution) -> None:
        with pytest.raises(ConfigError, match="no_such_split"):
            tasks.spec("no_such_split")


def _equal(one: Task, i: int, other: Task, j: int) -> bool:
    pairs: list[Any] = [
        (one.support.x, other.support.x),
        (one.support.y, other.support.y),
        (one.query.x, other.query.x),
        (one.query.y, other.query.y),
    ]
    return all(torch.equal(a[i], b[j]) for a, b in pairs)
