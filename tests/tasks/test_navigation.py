import numpy as np
import pytest
import torch

from metasearch.core.config import validate
from metasearch.core.errors import ConfigError
from metasearch.tasks.navigation import Navigation


def navigation(**settings):
    return Navigation(validate(Navigation.Config, settings, "tasks"), dtype=torch.float64)


def test_goals_fill_the_unit_square_and_starts_are_what_was_asked_for():
    fixed = navigation().sample("train", np.arange(500))
    random = navigation(start="random").sample("train", np.arange(500))
    assert (fixed.support.x == 0).all()
    assert (fixed.query.x == 0).all()
    for values in (fixed.info["goal"], random.support.x, random.query.x):
        assert -0.5 <= float(values.min()) < -0.49 < 0.49 < float(values.max()) < 0.5
    assert torch.equal(fixed.info["goal"], random.info["goal"])
    assert torch.equal(fixed.support.y, fixed.info["goal"][:, None].expand(-1, 20, -1))
    assert not torch.equal(random.support.x[0], random.query.x[0])


@pytest.mark.parametrize(("reward", "expected"), [("squared", -0.25), ("distance", -0.5)])
def test_a_step_is_scaled_cut_and_rewarded_by_where_it_leads(reward, expected):
    plane = navigation(reward=reward).spec("train").environment
    position, goal = torch.tensor([0.2, 0.0]), torch.tensor([0.6, 0.4])
    after, gained, end = plane.step(position, torch.tensor([7.0, 1.0]), goal)
    torch.testing.assert_close(after, torch.tensor([0.3, 0.1]))
    after, gained, end = plane.step(position, torch.tensor([0.0, -1.0]), torch.tensor([0.5, 0.3]))
    torch.testing.assert_close(after, torch.tensor([0.2, -0.1]))
    assert float(gained) == pytest.approx(expected)
    assert not end


def test_the_goal_ends_a_trajectory():
    plane = navigation(radius=0.05).spec("train").environment
    _, gained, end = plane.step(torch.zeros(2), torch.tensor([1.0, 0.5]), torch.tensor([0.1, 0.09]))
    assert end
    assert float(gained) == pytest.approx(-(0.04**2))


def test_splits_share_no_goal_and_a_pool_repeats_its_own():
    tasks = navigation(pool=3)
    train, test = (set(tasks.sample(split, np.arange(30)).info["goal"][:, 0].tolist()) for split in ("train", "test"))
    assert len(train) == 3
    assert not train & test


@pytest.mark.parametrize("settings", [{"reward": "sparse"}, {"horizon": 0}, {"start": "corner"}, {"limit": 0.0}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ConfigError, match="tasks." + next(iter(settings))):
        navigation(**settings)
