"""Truncated backpropagation: its exact value, its known bias, and how trajectories go on."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from drift import HORIZON, along, estimator, exact, phi, problem, slope

from metasearch.core.errors import UnsupportedError


@pytest.mark.parametrize("loss", ["query", "support"])
@pytest.mark.parametrize("steps", [1, 3, 5, HORIZON])
def test_truncations_of_one_trajectory_add_up_to_the_closed_form_with_its_bias(steps: int, loss: str) -> None:
    case = problem(along=loss)
    made = estimator(case, type="truncated", steps=steps, offsets=False, tasks=2, shard=2)
    found, first = along(made, -(-HORIZON // steps), seed=4)
    total = sum(slope(one) for one in found)
    assert total == pytest.approx(exact(case, first.seeds, first.seed, truncation=steps), rel=1e-12)
    whole = exact(case, first.seeds, first.seed)
    assert (steps == HORIZON) == (total == pytest.approx(whole, rel=1e-9))
    whole_objective, _ = along(estimator(case, type="truncated", steps=HORIZON, offsets=False, tasks=2, shard=2), 1, 4)
    assert sum(one.objective for one in found) == pytest.approx(whole_objective[0].objective, rel=1e-12)


def test_a_whole_trajectory_is_backpropagation() -> None:
    case = problem()
    whole = estimator(case, type="truncated", steps=HORIZON, offsets=False)
    (call,) = whole.calls(0, phi(), None, 9)
    plain = estimator(case, type="backprop")
    one, other = whole.measure(call), plain.measure(call)
    assert one.objective == pytest.approx(other.objective, rel=1e-14)
    assert one.gradient is not None
    assert other.gradient is not None
    torch.testing.assert_close(
        one.gradient["update_rule.drift"], other.gradient["update_rule.drift"], rtol=1e-12, atol=0
    )


def test_a_trajectory_keeps_its_tasks_to_the_end_and_then_others_begin() -> None:
    made = estimator(problem(), type="truncated", steps=5, offsets=False)
    carried: Any = None
    seeds, left = [], []
    for index in range(5):
        (call,) = made.calls(index, phi(), carried, index)
        seeds.append(tuple(made.task_seeds(call)))
        _, carried = made.combine([made.measure(call)])
        left.append(carried[0]["left"])
    assert left == [7, 2, 0, 7, 2]  # the last part of a trajectory of 12 steps has 2
    assert seeds[0] == seeds[1] == seeds[2] != seeds[3] == seeds[4]


def test_offsets_shorten_the_first_trajectory_of_a_shard_only() -> None:
    made = estimator(problem(), type="truncated", steps=2, tasks=40, shard=1)
    found, carried = made.combine([made.measure(call) for call in made.calls(0, phi(), None, 1)])
    assert found.gradient is not None
    assert {one["left"] for one in carried} == set(range(0, HORIZON, 2))  # at all places of a trajectory
    ended = next(index for index, one in enumerate(carried) if not one["left"])
    calls = made.calls(1, phi(), carried, 2)
    assert made.measure(calls[ended]).carried["left"] == HORIZON - 2


def test_a_diverged_trajectory_is_given_up() -> None:
    made = estimator(problem(), type="truncated", steps=2, offsets=False)
    far = phi().replace(tensors={"update_rule.drift": torch.tensor(1e200, dtype=torch.float64)})
    (call,) = made.calls(0, far, None, 1)
    found, carried = made.combine([made.measure(call)])
    assert found.diverged == (0,)
    assert carried == [{"seeds": [], "seed": 0, "left": 0, "kept": {}}]


def test_smaller_shards_start_anew() -> None:
    made = estimator(problem(), type="truncated", steps=2, offsets=False, tasks=4, shard=4)
    _, carried = made.combine([made.measure(call) for call in made.calls(0, phi(), None, 1)])
    made.shard = 2
    assert [call.carried for call in made.calls(1, phi(), carried, 2)] == [None, None]


def test_a_learner_without_an_inner_loop_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="takes the inner loop in parts"):
        estimator(dataclasses.replace(problem(), learner=lambda choices, split: object()), type="truncated")


def test_trajectories_grow_with_the_outer_step() -> None:
    case = problem()
    made = estimator(case, type="truncated", steps=2, offsets=False, horizon={"start": 2, "until": 4})

    def left(outer_step: int) -> int:
        (call,) = made.calls(0, phi(), None, 0)
        return made.measure(dataclasses.replace(call, step=outer_step)).carried["left"]

    assert [left(step) for step in (0, 2, 4, 100)] == [0, 3, HORIZON - 2, HORIZON - 2]


def test_growing_trajectories_need_a_loss_at_each_step() -> None:
    case = problem(objective="final")
    made = estimator(case, type="truncated", horizon={"start": 2, "until": 4})
    with pytest.raises(UnsupportedError, match="objective: sum"):
        made.check(case.learner({}, "train"), phi())
