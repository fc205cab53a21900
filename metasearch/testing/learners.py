"""What every learner must do.

Inherit :class:`LearnerContract`, give ``learner`` and ``tasks`` fixtures, get the tests.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from metasearch.core.contracts import InnerProblem, Learner, TaskDistribution
from metasearch.core.seeds import derive_many
from metasearch.core.values import Phi, fingerprint

__all__ = ["LearnerContract"]

SEEDS = np.array([3, 1, 4], dtype=np.int64)


class LearnerContract:
    """The promises of :class:`~metasearch.core.contracts.Learner`; for an inner loop, of ``InnerProblem`` as well."""

    @pytest.fixture
    def tasks(self) -> TaskDistribution:
        """Tasks that the learner is for."""
        raise LookupError("give a fixture `tasks` that returns a task distribution")

    @pytest.fixture
    def learner(self, tasks: TaskDistribution) -> Learner:
        """The learner under test, built for ``tasks.spec("train")``."""
        raise LookupError("give a fixture `learner` that returns the learner to test")

    def test_the_same_seed_gives_the_same_phi_and_another_seed_another(self, learner: Learner) -> None:
        first, again, other = (learner.init(seed) for seed in (0, 0, 1))
        assert fingerprint(first.tensors) == fingerprint(again.tensors)
        assert not first.tensors or fingerprint(first.tensors) != fingerprint(other.tensors)

    def test_losses_have_one_entry_a_task_and_repeat_bit_for_bit(
        self, learner: Learner, tasks: TaskDistribution
    ) -> None:
        phi, task = learner.init(0), tasks.sample("train", SEEDS)
        first, again = (learner.evaluate(phi, task, 7, create_graph=False) for _ in range(2))
        for one in (first.objective, first.query, *first.metrics.values()):
            assert one.shape == (len(SEEDS),)
        assert torch.equal(first.query, again.query)
        assert torch.equal(first.objective, again.objective)

    def test_evaluating_changes_neither_phi_nor_the_global_generator(
        self, learner: Learner, tasks: TaskDistribution
    ) -> None:
        phi, task = learner.init(0), tasks.sample("train", SEEDS)
        before, state = fingerprint({**phi.tensors, **phi.buffers}), torch.random.get_rng_state()
        learner.evaluate(phi, task, 7, create_graph=False)
        assert fingerprint({**phi.tensors, **phi.buffers}) == before
        assert torch.equal(state, torch.random.get_rng_state())

    def test_tasks_do_not_see_each_other(self, learner: Learner, tasks: TaskDistribution) -> None:
        phi = learner.init(0)
        together = learner.evaluate(phi, tasks.sample("train", SEEDS), 7, create_graph=False).query
        for index, seed in enumerate(SEEDS):
            alone = learner.evaluate(phi, tasks.sample("train", np.array([seed])), 7, create_graph=False).query
            torch.testing.assert_close(alone[0], together[index], rtol=1e-5, atol=1e-6)

    def test_updates_name_buffers_of_phi(self, learner: Learner, tasks: TaskDistribution) -> None:
        phi = learner.init(0)
        losses = learner.evaluate(phi, tasks.sample("train", SEEDS), 7, create_graph=False)
        assert set(losses.updates) <= set(phi.buffers)

    def test_the_test_loss_is_that_of_the_adapted_predictor(self, learner: Learner, tasks: TaskDistribution) -> None:
        phi, task = learner.init(0), tasks.sample("test", SEEDS)
        spec = tasks.spec("test")
        if spec.kind != "classification":
            pytest.skip("compared by accuracy, which these tasks do not have")
        given: Any = learner
        support = given.support(task, train=False) if getattr(given, "takes_unlabelled", False) else task.support
        # Support examples that a user brings have no seeds: adapt draws as for tasks of seeds that derive from its own.
        derived = dataclasses.replace(task, seeds=derive_many(7, "adapt", np.arange(len(SEEDS))))
        for one, seeds in ((derived, None), (task, task.seeds)):
            expected = learner.evaluate(phi, one, 7, train=False, create_graph=False).metrics["accuracy"]
            outputs = learner.adapt(phi, support, 7, seeds=seeds)(task.query.x)
            found = (outputs.argmax(-1) == task.query.y).to(torch.float64).mean(-1)
            torch.testing.assert_close(found, expected)

    def test_the_opened_inner_loop_gives_the_same_loss(self, learner: Learner, tasks: TaskDistribution) -> None:
        phi: Phi = learner.init(0)
        task = tasks.sample("train", SEEDS)
        closed = learner.evaluate(phi, task, 7, create_graph=False).query
        if not isinstance(learner, InnerProblem):
            pytest.skip("has no inner loop to open")
        state = learner.begin(phi, task, 7)
        for _ in range(learner.n_steps(train=True)):
            state = learner.step(phi, task, state, 7, create_graph=False)
        opened = learner.query_loss(phi, task, state, 7).query
        assert torch.equal(opened.detach(), closed.detach())
