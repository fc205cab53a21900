"""Curves of learning rates, and their schedulers."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from metasearch.core.errors import ConfigError
from metasearch.optim import StepRates, schedule


def optimizer(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates or (1.0,)])


def walk(scheduler: Any, steps: int) -> list[list[float]]:
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def test_warmup_and_cosine_meet_at_the_peak() -> None:
    curve = schedule({"type": "warmup_cosine", "peak": 0.4, "warmup": 0.25, "start": 0.5, "floor": 0.1})
    assert curve.rate(0.0) == pytest.approx(0.2)
    assert curve.rate(0.125) == pytest.approx(0.3)
    assert curve.rate(0.25) == pytest.approx(0.4)
    assert curve.rate(0.25 + 0.75 / 3) == pytest.approx(0.4 * (0.1 + 0.9 * (1 + math.cos(math.pi / 3)) / 2))
    assert curve.rate(1.0) == pytest.approx(0.04)


def test_without_warmup_it_is_torch_s_cosine() -> None:
    mine, theirs = optimizer(0.3), optimizer(0.3)
    curve = schedule({"type": "warmup_cosine", "peak": 0.3, "warmup": 0.0, "floor": 0.0})
    found = walk(curve.scheduler(mine, 9), 9)
    expected = walk(torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 8), 9)
    assert found[0] == [0.3]
    assert [one for (one,) in found] == pytest.approx([one for (one,) in expected], abs=1e-15)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(3, [3, 1, 2]), (6, [3, 3, 1, 1, 2, 2]), (5, [3, 3, 1, 2, 2]), (1, [2])],
)
def test_pieces_share_the_run_evenly(steps: int, expected: list[float]) -> None:
    assert schedule({"type": "pieces", "values": [3, 1, 2]}).rates(steps) == expected


def test_a_constant_stays() -> None:
    assert schedule({"type": "constant", "peak": 0.2}).rates(4) == [0.2] * 4


def test_a_curve_is_laid_over_the_run_and_stays_at_its_end() -> None:
    curve = schedule({"type": "warmup_cosine", "peak": 1.0, "warmup": 0.5, "start": 0.0, "floor": 0.5})
    found = walk(curve.scheduler(optimizer(), 5), 8)
    assert [one for (one,) in found] == pytest.approx([0.0, 0.5, 1.0, 0.75, 0.5, 0.5, 0.5, 0.5])
    assert curve.rates(5) == pytest.approx([one for (one,) in found[:5]])


def test_groups_keep_the_ratios_of_their_rates() -> None:
    found = walk(schedule({"type": "pieces", "values": [1.0, 0.1]}).scheduler(optimizer(0.2, 0.6), 2), 2)
    assert found[0] == pytest.approx([1.0, 3.0])
    assert found[1] == pytest.approx([0.1, 0.3])


def test_a_saved_scheduler_goes_on_where_it_was() -> None:
    curve = schedule({"type": "warmup_cosine", "peak": 1.0, "warmup": 0.3})
    whole = walk(curve.scheduler(optimizer(), 9), 9)
    first = curve.scheduler(optimizer(), 9)
    walk(first, 4)
    state = first.state_dict()
    assert all(isinstance(value, int | float | bool | list) for value in state.values())
    second = curve.scheduler(optimizer(), 9)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(state)
    assert walk(second, 5) == whole[4:]


def test_it_sits_beside_torch_s_own_schedulers() -> None:
    made = optimizer(0.5)
    warm = schedule({"type": "constant", "peak": 0.1}).scheduler(made, 3)
    late = torch.optim.lr_scheduler.StepLR(made, 1, 0.5)
    both = torch.optim.lr_scheduler.SequentialLR(made, [warm, late], milestones=[2])
    assert [one for (one,) in walk(both, 2)] == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"type": "warmup_cosin", "peak": 1.0}, "schedule.type: unknown schedule 'warmup_cosin'; did you mean"),
        ({"type": "warmup_cosine", "peak": -1.0}, "schedule.peak"),
        ({"type": "warmup_cosine", "peak": 1.0, "warmup": 1.0}, "schedule.warmup"),
        ({"type": "pieces", "values": []}, "schedule.values"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        schedule(settings)


def test_impossible_runs_are_refused() -> None:
    curve = schedule({"type": "constant", "peak": 0.1})
    with pytest.raises(ConfigError, match="steps: expected at least one step, got 0"):
        curve.scheduler(optimizer(), 0)
    with pytest.raises(ConfigError, match="optimizer: its first group has rate 0"):
        curve.scheduler(optimizer(0.0, 0.1), 3)
    with pytest.raises(ConfigError, match="expected one for each of 2 param groups, got 1"):
        StepRates(optimizer(0.1, 0.2), lambda step: [0.1])
