"""What the inner loop's settings mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import metasearch.learners
import metasearch.models
import metasearch.tasks  # noqa: F401  (these list the built-in parts)
from metasearch.core.errors import ConfigError
from metasearch.core.registry import build
from metasearch.core.values import Batch, Task, TaskSpec
from metasearch.learners.inner_loop import InnerLoop


def learner(ways: int = 3, **settings: object) -> InnerLoop:
    spec = TaskSpec("classification", (4,), ways, 2 * ways, 3 * ways)
    block = {"type": "inner_loop", "model": {"type": "mlp", "hidden": [8]}, "steps": 1, **settings}
    built = build("learner", block, "learner", spec=spec, choices={})
    assert isinstance(built, InnerLoop)
    return built


def tasks(ways: int = 3, count: int = 2) -> Task:
    draw = torch.Generator().manual_seed(0)

    def batch(each: int) -> Batch:
        y = torch.arange(ways).repeat_interleave(each).expand(count, -1)
        return Batch(torch.randn(count, ways * each, 4, generator=draw, dtype=torch.float64), y)

    return Task(batch(2), batch(3), np.arange(count))


def head_of(loop: InnerLoop) -> list[str]:
    return [name for name in loop.model.init(0)[0] if name.startswith(("head", "layers.1"))]


class TestZero:
    def test_is_no_part_of_phi_and_starts_each_task(self) -> None:
        plain = learner()
        names = head_of(plain)
        assert names
        loop = learner(slots={"initialization": {"type": "tensors", "zero": names}})
        phi = loop.init(0).to("cpu", torch.float64)
        assert not {f"initialization.{name}" for name in names} & set(phi.tensors)
        assert {f"initialization.{name}" for name in names} | set(phi.tensors) == set(plain.init(0).tensors)
        theta = loop.begin(phi, tasks(), 0)["theta"]
        assert all(float(theta[name].abs().max()) == 0.0 for name in names)
        assert {name: value.shape for name, value in theta.items()} == {
            name: value.shape for name, value in plain.begin(plain.init(0), tasks(), 0)["theta"].items()
        }

    def test_first_step_moves_the_head_to_centred_class_sums(self) -> None:
        """From zero, W = rate * sum over examples of (one-hot - 1/N) h: the closed form of one softmax step."""
        names = head_of(learner())
        slots = {
            "initialization": {"type": "tensors", "zero": names},
            "learning_rates": {"type": "fixed", "value": 0.3},
        }
        loop = learner(slots=slots, reduction="sum")
        phi, task = loop.init(0).to("cpu", torch.float64), tasks()
        start = loop.begin(phi, task, 0)
        after = loop.step(phi, task, start, 0)["theta"]
        weight, bias = names
        first = {name: phi.tensors[f"initialization.{name}"] for name in after if name not in names}
        w, b = first.values()
        hidden = torch.relu(task.support.x @ w.T + b)
        target = torch.nn.functional.one_hot(task.support.y, 3).double() - 1 / 3
        torch.testing.assert_close(after[weight], 0.3 * target.transpose(1, 2) @ hidden)
        torch.testing.assert_close(after[bias], 0.3 * target.sum(1))
        for name, value in first.items():  # nothing flows back through a head of zeros
            torch.testing.assert_close(after[name], value.expand_as(after[name]))

    def test_phi_serves_any_number_of_classes(self) -> None:
        names = head_of(learner())
        slots = {"initialization": {"type": "tensors", "zero": names}}
        phi = learner(3, slots=slots).init(0).to("cpu", torch.float64)
        losses = learner(7, slots=slots).evaluate(phi, tasks(7), 0, train=False)
        assert torch.isfinite(losses.query).all()

    def test_a_pattern_that_fits_nothing_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"zero.*no parameter fits 'tail.\*'.*layers"):
            learner(slots={"initialization": {"type": "tensors", "zero": ["tail.*"]}})


def test_a_sum_over_the_support_set_is_a_mean_with_a_larger_rate() -> None:
    task = tasks()
    summed = learner(reduction="sum", slots={"learning_rates": {"type": "fixed", "value": 0.1}})
    mean = learner(slots={"learning_rates": {"type": "fixed", "value": 0.6}})  # 6 support examples
    phi = summed.init(1).to("cpu", torch.float64)
    torch.testing.assert_close(summed.evaluate(phi, task, 0).query, mean.evaluate(phi, task, 0).query)


class TestBatch:
    def test_each_step_draws_other_examples_without_repeating_one(self) -> None:
        seen = self.drawn(batch=4)
        assert all(len(set(rows)) == 4 for step in seen for rows in step)
        assert len({tuple(sorted(rows)) for step in seen for rows in step}) > 6  # of 5 steps and 2 tasks

    def test_they_depend_on_the_task_s_seed_and_not_on_its_neighbours(self) -> None:
        together, alone = self.drawn(batch=4), self.drawn(batch=4, only=1)
        assert [step[1] for step in together] == [step[0] for step in alone]

    def test_a_batch_as_large_as_the_support_set_is_the_support_set(self) -> None:
        assert self.drawn(batch=6) == self.drawn(batch=100) == [[list(range(6))] * 2] * 5

    def test_drawn_steps_are_not_traced_into_a_fixed_graph(self) -> None:
        assert learner().traceable
        assert not learner(batch=2).traceable

    @staticmethod
    def drawn(batch: int, only: int | None = None) -> list[list[list[int]]]:
        """For five steps, which support examples each task sees."""
        loop = learner(batch=batch)
        task = tasks()
        rows = torch.arange(6, dtype=torch.float64).view(1, 6, 1).expand(2, 6, 4)
        task = Task(Batch(rows, task.support.y), task.query, np.array([3, 5]))
        if only is not None:
            pick = slice(only, only + 1)
            task = Task(
                Batch(task.support.x[pick], task.support.y[pick]),
                Batch(task.query.x[pick], task.query.y[pick]),
                task.seeds[pick],
            )
        found = []
        for step in range(5):
            x = loop._drawn(task, 0, step).x[..., 0]
            found.append([[int(one) for one in row] for row in x])
        return found
