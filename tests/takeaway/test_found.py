"""A found schedule in a plain training loop."""

import pytest
import torch

from metasearch.core.errors import ArtifactError
from metasearch.takeaway.found import FoundSchedule

SETTINGS = {"lr": {"float": [1e-3, 1.0], "log": True}, "weight_decay": {"float": [0.0, 0.1]}, "hidden": 4}
PIECES = [
    {"from": 0, "choices": {"c.lr": 0.5, "c.weight_decay": 0.0}},
    {"from": 2, "choices": {"c.lr": 0.1, "c.weight_decay": 0.05}},
]


@pytest.fixture
def found() -> FoundSchedule:
    return FoundSchedule(PIECES, 4, SETTINGS, prefix="c.")


def test_a_plain_loop_under_the_schedule_is_sgd_with_its_settings(found: FoundSchedule) -> None:
    weight = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=9.0)
    expected = 1.0
    for epoch in range(found.steps):
        assert found.apply(optimizer, epoch) == {
            "lr": found.config(epoch)["lr"],
            "weight_decay": found.config(epoch)["weight_decay"],
        }
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
        lr, decay = ((0.5, 0.0), (0.5, 0.0), (0.1, 0.05), (0.1, 0.05))[epoch]
        expected -= lr * (2 * expected + decay * expected)
    assert weight.item() == pytest.approx(expected, abs=1e-12)


def test_the_rate_is_a_scheduler_stretched_over_other_lengths(found: FoundSchedule) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = found.scheduler(optimizer, steps=8)
    rates = []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [0.5] * 4 + [0.1] * 5


def test_what_is_not_there_is_said(found: FoundSchedule) -> None:
    with pytest.raises(ArtifactError, match="no setting 'beta'"):
        found.curve("beta")
    other = FoundSchedule([{"from": 0, "choices": {"share": 0.5}}], 2, {"share": {"float": [0.0, 1.0]}})
    with pytest.raises(ArtifactError, match="none of the settings"):
        other.apply(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), 0)
