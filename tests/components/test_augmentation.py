"""The augmentation slot: what it does to a step, by choices and by gradient, and what leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metasearch import artifacts
from metasearch.augment import Policy
from metasearch.core.errors import ArtifactError, ConfigError, UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Batch, Phi, Task, TaskSpec
from metasearch.learners.inner_loop import layer_seeds
from metasearch.loaded import load
from metasearch.program import Blueprint, ExperimentProgram
from metasearch.testing.phi import stored_phi

SPEC = TaskSpec("classification", (1, 6, 6), 3, 3, 3)


def block(augmentation: dict[str, Any], steps: int = 1, **more: Any) -> dict[str, Any]:
    slots = {"initialization": {"type": "random"}, "augmentation": augmentation}
    return {"type": "inner_loop", "model": {"type": "mlp", "hidden": [5]}, "steps": steps, "slots": slots, **more}


def learner(augmentation: dict[str, Any], choices: dict[str, Any] | None = None, **more: Any) -> Any:
    named = {f"slots.augmentation.{name}": value for name, value in (choices or {}).items()}
    return build("learner", block(augmentation, **more), "learner", spec=SPEC, choices=named)


def tasks(n: int = 2) -> Task:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 6, 1, 6, 6, generator=generator, dtype=torch.float64) * 0.6 + 0.2
    y = torch.arange(3).expand(n, 3)
    return Task(Batch(x[:, :3], y), Batch(x[:, 3:], y), np.arange(40, 40 + n))


INVERT = {"type": "given", "sub_policies": [[["invert", 1.0, 0.0]]]}


def test_an_inner_step_is_taken_on_augmented_support_examples_and_judged_on_plain_queries():
    task = tasks()
    with_policy, plain = learner(INVERT), learner({"type": "none"})
    inverted = Task(Batch(1 - task.support.x, task.support.y), task.query, task.seeds)
    found = with_policy.evaluate(with_policy.init(0), task, 7).query
    torch.testing.assert_close(found, plain.evaluate(plain.init(0), inverted, 7).query)
    assert not torch.allclose(found, plain.evaluate(plain.init(0), task, 7).query)


def test_a_tasks_draws_do_not_depend_on_the_tasks_beside_it_and_differ_from_step_to_step():
    policy = {"type": "uniform", "operations": "strokes", "places": 2}
    one = learner(policy, steps=2)
    phi, task = one.init(0), tasks(3)
    whole = one.evaluate(phi, task, 7).query
    for i in range(3):
        part = slice(i, i + 1)
        support, query = (Batch(b.x[part], b.y[part]) for b in (task.support, task.query))
        torch.testing.assert_close(
            one.evaluate(phi, Task(support, query, task.seeds[part]), 7).query, whole[part], rtol=0, atol=1e-12
        )
    slot = one.slots["augmentation"]
    first, second = (
        slot.support({}, task.support, step, layer_seeds(task, 7, "augmentation", step)).x for step in (0, 1)
    )
    assert not torch.equal(first, second)


def test_a_schedule_goes_by_the_inner_steps_of_training():
    family = {"type": "schedule", "operations": ["invert"], "phases": 2, "places": 1}
    one = learner(family, {"0.invert.probability": 1.0, "1.invert.probability": 0.0}, steps=4)
    slot, task = one.slots["augmentation"], tasks()
    done = [slot.support({}, task.support, step, task.seeds).x.mean() > task.support.x.mean() for step in range(6)]
    low = task.support.x.mean() > 0.5
    assert [bool(one) != bool(low) for one in done[:2]] == [True, True]
    for step in (2, 3, 5):
        torch.testing.assert_close(slot.support({}, task.support, step, task.seeds).x, task.support.x)


def test_choices_of_a_searcher_become_the_policy_and_are_checked():
    one = learner({"type": "sub_policies", "count": 1, "places": 1, "operations": "strokes"})
    names = list(one.space())
    assert names == [f"slots.augmentation.0.0.{part}" for part in ("operation", "probability", "level")]
    choices = {"0.0.operation": "cutout", "0.0.probability": 1.0, "0.0.level": 1.0}
    chosen = learner({"type": "sub_policies", "count": 1, "places": 1, "operations": "strokes"}, choices)
    given = learner({"type": "given", "sub_policies": [[["cutout", 1.0, 1.0]]]})
    task = tasks()
    torch.testing.assert_close(
        chosen.evaluate(chosen.init(0), task, 3).query, given.evaluate(given.init(0), task, 3).query
    )
    with pytest.raises(ConfigError, match="operation"):
        one.evaluate(one.init(0), task, 3)
    with pytest.raises(UnsupportedError, match="pictures"):
        build("learner", block(INVERT), "learner", spec=TaskSpec("regression", (1,), 1, 3, 3))


def test_the_bilevel_gradient_of_a_relaxed_policy_is_that_of_differences():
    relaxed = {"type": "relaxed", "operations": ["brightness", "invert", "shear_x"], "count": 2, "places": 2,
               "hard": False, "spread": 0.5}  # fmt: skip
    one = learner(relaxed, steps=2)
    phi, task = one.init(0).to("cpu", torch.float64), tasks()
    names = sorted(phi.tensors)

    def loss(*leaves: torch.Tensor) -> torch.Tensor:
        return one.evaluate(phi.replace(tensors=dict(zip(names, leaves, strict=True))), task, 5).objective.sum()

    leaves = tuple(phi.tensors[name].clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(loss, leaves, eps=1e-6, atol=1e-7)
    hard = learner({**relaxed, "hard": True}, steps=2)
    point = phi.replace(tensors={name: value.clone().requires_grad_() for name, value in phi.tensors.items()})
    found = torch.autograd.grad(hard.evaluate(point, task, 5).objective.sum(), list(point.tensors.values()))
    assert all(torch.isfinite(value).all() and (value != 0).any() for value in found)


def test_a_learned_policy_leaves_as_a_module_and_as_json(tmp_path: Path):
    spec = TaskSpec("classification", (1, 8, 8), 3, 3, 6)
    learned = load(stored_phi(tmp_path / "relaxed", learner=block({"type": "relaxed", "count": 2}), spec=spec))
    augment = learned.augmentation()
    assert augment.policy.weight.shape == (1, 2, 2, 16)
    written = learned.save(tmp_path / "policy.json")
    x = torch.rand(8, 1, 12, 12)
    torch.testing.assert_close(Policy.from_json(written)(x, [3]), augment(x, seed=3))

    folder = stored_phi(tmp_path / "chosen", learner=block({"type": "sub_policies", "count": 1}), spec=spec)
    stored = artifacts.load(folder)
    choices = {"0.0.operation": "invert", "0.0.probability": 1.0, "0.1.operation": "invert", "0.1.probability": 0.0}
    choices = {f"learner.slots.augmentation.{name}": value for name, value in choices.items()}
    artifacts.save(folder, Phi(choices=choices), stored.manifest)
    torch.testing.assert_close(load(folder).augmentation()(x, seed=1), 1 - x)
    with pytest.raises(ArtifactError, match="no augmentation"):
        load(stored_phi(tmp_path / "none")).augmentation()


def test_ranges_in_the_settings_of_a_policy_take_their_values_from_the_choices_in_a_search_and_after_it(tmp_path: Path):
    counted = block({"type": "rand_augment", "count": {"int": [1, 3]}, "level": {"float": [0.1, 1.0]}})
    tree = {"name": "a", "tasks": {"type": "omniglot"}, "learner": counted, "budget": {"steps": 1}}
    choices = {"learner.slots.augmentation.count": 3, "learner.slots.augmentation.level": 0.5}
    stored = artifacts.load(stored_phi(tmp_path / "phi", learner=block({"type": "rand_augment"}), spec=SPEC))
    manifest = stored.manifest.model_copy(update={"config": {**stored.manifest.config, "learner": counted}})
    artifacts.save(tmp_path / "phi", Phi(choices=choices), manifest)
    searched: Any = ExperimentProgram(Blueprint(tree)).learner(choices)
    for policy in (searched.slots["augmentation"].policy({}), load(tmp_path / "phi").augmentation().policy):
        plan = policy.plan([1], 10)
        assert len(plan) == 3
        assert all((place.level == 0.5).all() for place in plan)
