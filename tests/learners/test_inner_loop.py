"""What the inner loop's settings mean."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

import metasearch.learners
import metasearch.models
import metasearch.tasks  # noqa: F401  (these list the built-in parts)
from metasearch.core.errors import ConfigError, UnsupportedError
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


class TestClassMeans:
    SLOTS: ClassVar = {"initialization": {"type": "tensors", "head": "class_means"}}

    def test_before_the_first_step_it_is_a_prototypical_network(self) -> None:
        """Outputs 2 c.f - |c|^2 have the softmax of -|f - c|^2 (Snell, Swersky, Zemel 2017, Eq. 2)."""
        loop, task = learner(steps=0, slots=self.SLOTS), tasks()
        phi = loop.init(0).to("cpu", torch.float64)
        assert {name for name in phi.tensors if "head" in name} == set()
        weight, bias = (phi.tensors[f"initialization.layers.0.{one}"] for one in ("weight", "bias"))
        found = torch.softmax(loop.adapt(phi, task.support, 0)(task.query.x), -1)
        support, query = (torch.relu(one.x @ weight.T + bias) for one in (task.support, task.query))
        for index in range(2):
            means = torch.stack([support[index][task.support.y[index] == label].mean(0) for label in range(3)])
            torch.testing.assert_close(found[index], torch.softmax(-torch.cdist(query[index], means).square(), -1))

    def test_the_gradient_passes_through_the_means(self) -> None:
        loop, task = learner(steps=2, slots=self.SLOTS), tasks()
        phi = loop.init(0).to("cpu", torch.float64)
        leaves = {name: value.clone().requires_grad_() for name, value in phi.tensors.items()}
        loss = loop.evaluate(phi.replace(tensors=leaves), task, 0).objective.sum()
        slopes = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        for name, value in phi.tensors.items():
            way = torch.from_numpy(np.random.default_rng(0).normal(size=tuple(value.shape)))
            up, down = (
                float(
                    loop.evaluate(phi.replace(tensors={**phi.tensors, name: value + h * way}), task, 0)
                    .objective.sum()
                    .detach()
                )
                for h in (1e-6, -1e-6)
            )
            assert float((slopes[name] * way).sum()) == pytest.approx((up - down) / 2e-6, rel=1e-6)

    def test_phi_serves_any_number_of_classes(self) -> None:
        phi = learner(3, slots=self.SLOTS).init(0).to("cpu", torch.float64)
        losses = learner(7, slots=self.SLOTS).evaluate(phi, tasks(7), 0, train=False)
        assert torch.isfinite(losses.query).all()

    def test_is_refused_where_it_cannot_be_made(self) -> None:
        with pytest.raises(ConfigError, match=r"slots.initialization.head: class_means makes head.bias, head.weight"):
            learner(slots={"initialization": {**self.SLOTS["initialization"], "zero": ["head.*"]}})
        spec = TaskSpec("regression", (4,), 1, 4, 4)
        block = {"type": "inner_loop", "model": {"type": "mlp", "hidden": [8]}, "slots": self.SLOTS}
        with pytest.raises(UnsupportedError, match="needs classification tasks, these are regression"):
            build("learner", block, "learner", spec=spec, choices={})
        with pytest.raises(UnsupportedError, match="a network that gives its features"):
            learner(model={"type": "torch.nn:Linear", "in_features": 4, "out_features": 3}, slots=self.SLOTS)

    def test_a_module_that_takes_phi_keeps_its_own_head(self, tmp_path: Path) -> None:
        from metasearch.loaded import load
        from metasearch.testing.phi import LEARNER, stored_phi

        phi = load(stored_phi(tmp_path / "phi", learner={**LEARNER, "slots": {**LEARNER["slots"], **self.SLOTS}}))
        network = phi.network()
        before = network.head.weight.detach().clone()
        report = phi.initialize(network)
        assert report.made == ("head.weight", "head.bias")
        assert "left 2, which a task makes of its support set: head.weight, head.bias" in str(report)
        assert torch.equal(network.head.weight, before)
        assert phi.classifier().fit(np.eye(4), list("abcd")).predict(np.eye(4)).tolist() == list("abcd")


def test_a_sum_over_the_support_set_is_a_mean_with_a_larger_rate() -> None:
    task = tasks()
    summed = learner(reduction="sum", slots={"learning_rates": {"type": "fixed", "value": 0.1}})
    mean = learner(slots={"learning_rates": {"type": "fixed", "value": 0.6}})  # 6 support examples
    phi = summed.init(1).to("cpu", torch.float64)
    torch.testing.assert_close(summed.evaluate(phi, task, 0).query, mean.evaluate(phi, task, 0).query)


class TestPredict:
    """How networks that normalize by the batch at hand see the query examples."""

    MODEL: ClassVar = {"type": "mlp", "hidden": [8], "batch_norm": True}

    def test_alone_means_in_a_batch_with_the_support_set_and_no_other_query(self) -> None:
        task = tasks()
        loop = learner(model=self.MODEL, predict="alone")
        phi = loop.init(0).to("cpu", torch.float64)
        state = loop.step(phi, task, loop.begin(phi, task, 0, train=False), 0, create_graph=False)
        expected = []
        for index in range(2):
            theta = {name: value[index : index + 1] for name, value in state["theta"].items()}
            for query in task.query.x[index]:
                x = torch.cat([task.support.x[index], query[None]])[None]
                expected.append(loop.model(theta, {}, x)[0][0, -1])
        outputs = loop.adapt(phi, task.support, 0)(task.query.x)
        torch.testing.assert_close(outputs.flatten(0, 1), torch.stack(expected))
        losses = loop.evaluate(phi, task, 0, train=False)
        right = (outputs.argmax(-1) == task.query.y).double().mean(-1)
        assert set(losses.metrics) == {"accuracy_alone"}
        torch.testing.assert_close(losses.metrics["accuracy_alone"], right)
        log_shares = torch.log_softmax(outputs, -1).gather(-1, task.query.y[..., None])[..., 0]
        torch.testing.assert_close(losses.query, -log_shares.mean(-1))

    def test_both_reports_each_under_its_own_name(self) -> None:
        task = tasks()
        loops = {one: learner(model=self.MODEL, predict=one) for one in ("together", "alone", "both")}
        phi = loops["both"].init(0).to("cpu", torch.float64)
        found = {one: loop.evaluate(phi, task, 0, train=False) for one, loop in loops.items()}
        assert set(found["both"].metrics) == {"accuracy", "accuracy_alone"}
        assert torch.equal(found["both"].metrics["accuracy"], found["together"].metrics["accuracy"])
        assert torch.equal(found["both"].metrics["accuracy_alone"], found["alone"].metrics["accuracy_alone"])
        assert torch.equal(found["both"].query, found["together"].query)
        assert not torch.equal(found["alone"].query, found["together"].query)

    def test_nil_takes_the_label_of_the_support_example_with_the_nearest_features(self) -> None:
        task, loop = tasks(), learner(predict="nil", steps=0)
        phi = loop.init(0).to("cpu", torch.float64)
        weight, bias = (phi.tensors[f"initialization.layers.0.{one}"] for one in ("weight", "bias"))
        support, query = (torch.relu(one.x @ weight.T + bias) for one in (task.support, task.query))
        right = []
        for index in range(2):
            near = torch.cosine_similarity(query[index][:, None], support[index][None], dim=-1).argmax(1)
            right.append((task.support.y[index][near] == task.query.y[index]).double().mean())
        metrics = loop.evaluate(phi, task, 0, train=False).metrics
        assert set(metrics) == {"accuracy_nil"}
        torch.testing.assert_close(metrics["accuracy_nil"], torch.stack(right))
        found = loop.adapt(phi, task.support, 0)(task.query.x).argmax(-1)
        torch.testing.assert_close((found == task.query.y).double().mean(-1), metrics["accuracy_nil"])

    def test_nil_needs_a_network_that_gives_its_features(self) -> None:
        with pytest.raises(ConfigError, match="predict: nil needs classification, and a network that gives"):
            learner(model={"type": "torch.nn:Linear", "in_features": 4, "out_features": 3}, predict="nil")

    def test_training_sees_queries_together(self) -> None:
        task = tasks()
        together, alone = (learner(model=self.MODEL, predict=one) for one in ("together", "alone"))
        phi = together.init(0).to("cpu", torch.float64)
        assert torch.equal(alone.evaluate(phi, task, 0).query, together.evaluate(phi, task, 0).query)


class TestBatch:
    def test_training_and_test_may_differ(self) -> None:
        task = tasks()
        whole, parted = learner(steps=2), learner(steps=2, batch={"train": 2, "test": None})
        phi = whole.init(0).to("cpu", torch.float64)
        test, train = (
            [one.evaluate(phi, task, 0, train=flag).query for one in (whole, parted)] for flag in (False, True)
        )
        assert torch.equal(*test)
        assert not torch.equal(*train)

    def test_tasks_do_not_see_each_others_draws(self) -> None:
        loop, task = learner(steps=3, batch=2), tasks(count=3)
        phi = loop.init(0).to("cpu", torch.float64)
        together = loop.evaluate(phi, task, 9).query
        for index in range(3):
            one = slice(index, index + 1)
            alone = Task(
                Batch(task.support.x[one], task.support.y[one]),
                Batch(task.query.x[one], task.query.y[one]),
                task.seeds[one],
            )
            torch.testing.assert_close(loop.evaluate(phi, alone, 9).query[0], together[index], rtol=1e-12, atol=0)

    @pytest.mark.parametrize("along", ["query", "support"])
    def test_examples_that_are_handed_in_are_those_that_it_draws(self, along: str) -> None:
        loop, task = learner(steps=3, batch=2, along=along), tasks(count=3)
        phi = loop.init(0).to("cpu", torch.float64)
        drawn = loop.drawn(task, 9)
        assert drawn["minibatches"].shape == (3, 3 if along == "query" else 4, 2)
        given = dataclasses.replace(task, info={**task.info, **drawn})
        found, own = loop.evaluate(phi, given, 0), loop.evaluate(phi, task, 9)
        assert torch.equal(found.objective, own.objective)
        assert torch.equal(found.query, own.query)
        assert torch.equal(*(loop.evaluate(phi, one, 9, train=False).query for one in (given, task)))

    def test_a_loop_with_few_steps_on_minibatches_is_traced(self) -> None:
        assert learner().traceable
        assert learner(batch=2, steps=32).traceable
        assert not learner(batch=2, steps=33).traceable
        assert learner(batch={"test": 2}, steps=33).traceable


class TestAdapt:
    def test_a_pattern_after_an_exclamation_mark_takes_names_out(self) -> None:
        assert learner(adapt=["*", "!head.*"]).adapted == ("layers.0.weight", "layers.0.bias")
        assert learner(adapt=["*", "!*.bias", "head.bias"]).adapted == ("layers.0.weight", "head.weight", "head.bias")

    def test_a_pattern_that_takes_nothing_out_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"adapt: no parameter matches '!tail.\*'"):
            learner(adapt=["*", "!tail.*"])
