"""Inner steps on a part of the support set: every epoch sees every example, and grouping changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metasearch.core.values import Batch
from metasearch.learners.minibatch import minibatch

SEEDS = np.array([3, 1, 4])


def numbered(tasks: int = 3, n: int = 6) -> Batch:
    y = torch.arange(n).repeat(tasks, 1)
    return Batch(y[..., None].double(), y)


@pytest.mark.parametrize("size", [1, 2, 4, 6, 9])
def test_every_epoch_sees_every_example_once(size: int) -> None:
    steps = 36 // size
    seen = torch.cat([minibatch(numbered(), size, step, SEEDS).y for step in range(steps)], 1)
    assert seen.shape == (3, 36)
    for epoch in seen.split(6, 1):
        assert torch.equal(epoch.sort(1).values, torch.arange(6).expand(3, 6))


def test_examples_keep_their_targets() -> None:
    batch = minibatch(numbered(), 4, 1, SEEDS)
    assert torch.equal(batch.x[..., 0].long(), batch.y)


def test_tasks_and_epochs_have_orders_of_their_own() -> None:
    orders = {
        tuple(row.tolist()) for step in range(4) for row in minibatch(numbered(3, 12), 12, step, np.array([3, 1, 4])).y
    }
    assert len(orders) == 12


def test_a_task_sees_the_same_examples_alone_and_in_a_group() -> None:
    together = minibatch(numbered(), 4, 5, SEEDS).y
    for index, seed in enumerate(SEEDS):
        assert torch.equal(minibatch(numbered(1), 4, 5, np.array([seed])).y[0], together[index])


def test_a_large_set_is_shuffled_without_sorting_it() -> None:
    n, size = 1500, 400
    seen = torch.cat([minibatch(numbered(3, n), size, step, SEEDS).y for step in range(15)], 1)
    for epoch in seen.split(n, 1):
        assert torch.equal(epoch.sort(1).values, torch.arange(n).expand(3, n))
    assert not torch.equal(seen[:, :n], seen[:, n : 2 * n])
    assert not torch.equal(seen[0], seen[1])
    for index, seed in enumerate(SEEDS):
        alone = minibatch(numbered(1, n), size, 3, np.array([seed])).y[0]
        assert torch.equal(alone, seen[index, 3 * size : 4 * size])
