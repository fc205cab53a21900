"""Policies: what is drawn, that it does not depend on grouping, and that what leaves comes back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from metasearch.augment import NAMES, Augmentation, Policy, design
from metasearch.core.errors import ConfigError
from metasearch.core.seeds import Draws

AUTO = [[("rotate", 0.6, 0.5), ("cutout", 1.0, 0.9)], [("invert", 0.25, 0.0), ("solarize", 1.0, 0.7)]]


def pictures(n: int, channels: int = 3, size: int = 12) -> torch.Tensor:
    return torch.from_numpy(Draws([3], "x").uniform(n * channels * size * size)).view(n, channels, size, size).float()


def test_what_is_drawn_is_as_frequent_as_the_policy_says():
    policy = Policy.of(AUTO)
    first, second = policy.plan([7], 40_000)
    shares = {name: float((first.operation == NAMES.index(name)).mean()) for name in ("rotate", "invert")}
    assert shares["rotate"] == pytest.approx(0.3, abs=0.01)
    assert shares["invert"] == pytest.approx(0.125, abs=0.01)
    # One sub-policy an image: where the first place rotates, the second one cuts out.
    rotated = first.operation == NAMES.index("rotate")
    assert (second.operation[rotated] == NAMES.index("cutout")).all()
    assert float((first.sign[torch.from_numpy(rotated)] > 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert (first.level[torch.from_numpy(rotated)] == 0.5).all()


def test_uniform_policies_draw_operations_and_levels_evenly_and_rand_augment_has_one_level():
    (place,) = design({"type": "uniform", "operations": "strokes", "high": 0.5}).policy().plan([1], 20_000)
    _, counts = np.unique(place.operation, return_counts=True)
    assert len(counts) == 6
    assert (abs(counts / 20_000 - 1 / 6) < 0.01).all()
    assert float(place.level.mean()) == pytest.approx(0.25, abs=0.01)
    assert float(place.level.max()) <= 0.5
    plan = design({"type": "rand_augment", "count": 3, "level": 0.4}).policy().plan([1], 10)
    assert len(plan) == 3
    assert all((one.level == 0.4).all() for one in plan)
    assert design("none").policy()(pictures(2), [0]).equal(pictures(2))


def test_a_tasks_images_do_not_depend_on_the_tasks_beside_it():
    policy = design({"type": "uniform", "places": 2}).policy()
    x = pictures(12).view(3, 4, 3, 12, 12)
    together = policy(x, [5, 6, 7])
    alone = policy(x[1:2], [6])
    torch.testing.assert_close(together[1:2], alone)
    assert not torch.equal(together[0], policy(x[:1], [8])[0])


def test_a_schedule_changes_with_progress():
    family = design({"type": "schedule", "operations": ["invert"], "phases": 2, "places": 1})
    assert list(family.space()) == ["0.invert.probability", "1.invert.probability"]
    policy = family.policy({"0.invert.probability": 0.0, "1.invert.probability": 1.0})
    x = pictures(3)
    torch.testing.assert_close(policy(x, [0], 0.49), x)
    torch.testing.assert_close(policy(x, [0], 0.5), 1 - x)
    torch.testing.assert_close(policy(x, [0], 1.0), 1 - x)


def test_the_space_of_sub_policies_is_auto_augments():
    space = design({"type": "sub_policies"}).space()
    assert len(space) == 30
    choices = space.sample(4)
    family = design({"type": "sub_policies"})
    policy = family.policy(choices)
    name = choices["3.1.operation"]
    at = (0, 3, 1, policy.operations.index(name))
    assert policy.weight[at] == 1.0
    assert policy.probability[at] == choices["3.1.probability"]
    assert policy.high[at] == choices.get("3.1.level", 0.0)
    plain = {**choices, "0.0.operation": "invert"}
    with pytest.raises(ConfigError, match=r"0\.0\.level"):
        family.policy({**plain, "0.0.level": 0.3})


def test_json_returns_the_same_policy_and_refuses_what_is_none(tmp_path: Path):
    x = pictures(64)
    for policy in (
        Policy.of(AUTO, fill=0.3),
        design({"type": "rand_augment"}).policy(),
        design("none").policy(),
        design({"type": "schedule", "phases": 3, "operations": "strokes"}).policy(
            design({"type": "schedule", "phases": 3, "operations": "strokes"}).space().sample(1)
        ),
    ):
        back = Policy.from_json(policy.to_json())
        for progress in (0.0, 0.7):
            torch.testing.assert_close(back(x, [9], progress), policy(x, [9], progress), rtol=0, atol=0)
    path = tmp_path / "policy.json"
    path.write_text(Policy.of(AUTO).to_json())
    torch.testing.assert_close(design({"type": "given", "file": str(path)}).policy()(x, [1]), Policy.of(AUTO)(x, [1]))
    with pytest.raises(ConfigError, match="format"):
        Policy.from_json("{}")
    tree = json.loads(Policy.of(AUTO).to_json())
    tree["phases"][0][0][0] = {"rotat": {"weight": 1.0, "probability": 1.0, "level": [0.0, 1.0]}}
    with pytest.raises(ConfigError, match="rotate"):
        Policy.from_json(tree)
    with pytest.raises(ConfigError, match="probability"):
        Policy.of([[("rotate", 1.5, 0.5)]])
    with pytest.raises(ConfigError, match="sub-policies or the file"):
        design("given")


def test_policies_are_joined_with_all_their_sub_policies():
    joined = Policy.of(AUTO).concatenate([Policy.of([[("color", 1.0, 0.5), ("invert", 1.0, 0.0)]])])
    assert joined.weight.shape == (1, 3, 2, 5)
    first, second = joined.plan([2], 9000)
    assert float((first.operation == NAMES.index("color")).mean()) == pytest.approx(1 / 3, abs=0.02)
    assert (second.operation[first.operation == NAMES.index("color")] == NAMES.index("invert")).all()


class Pictures(Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 4

    def __getitem__(self, index):
        picture = self.transform(Image.new("RGB", (9, 7), (10 * index, 100, 200)))
        return torch.from_numpy(np.array(picture))


def test_the_module_works_in_a_data_loader_and_in_a_training_step():
    augment = Augmentation(Policy.of([[("invert", 1.0, 0.0)]]))
    loader = DataLoader(Pictures(augment), batch_size=4)
    (batch,) = list(loader)
    assert batch.shape == (4, 7, 9, 3)
    assert batch[2, 0, 0].tolist() == [235, 155, 55]
    grey = augment(Image.new("L", (5, 6), 255))
    assert (grey.mode, grey.size, grey.getpixel((0, 0))) == ("L", (5, 6), 0)
    bytes_ = torch.full((2, 1, 4, 4), 3, dtype=torch.uint8)
    assert augment(bytes_).unique().tolist() == [252]
    assert augment(pictures(1)[0]).shape == (3, 12, 12)
    assert augment.eval()(bytes_) is bytes_
    with pytest.raises(ValueError, match="PIL image or a tensor"):
        augment.train()(torch.zeros(3))


def test_the_module_draws_from_its_seed_or_from_torchs_generator():
    augment = Augmentation(design({"type": "uniform", "places": 2}).policy())
    x = pictures(16)
    assert augment(x, seed=1).equal(augment(x, seed=1))
    assert not augment(x, seed=1).equal(augment(x, seed=2))
    torch.manual_seed(5)
    first, second = augment(x), augment(x)
    torch.manual_seed(5)
    assert augment(x).equal(first)
    assert not second.equal(first)


def test_policies_in_turn_are_each_one_for_its_part_of_the_training() -> None:
    one = design({"type": "schedule", "phases": 2, "places": 1, "operations": ["rotate", "cutout"]})
    two = design({"type": "uniform", "operations": ["invert"], "high": 0.5})
    policies = [one.policy(one.space().sample(3)), two.policy(), two.policy()]
    whole = Policy.in_turn(policies)
    assert whole.phases == 6
    x = torch.rand(8, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    for step in range(12):
        now = policies[step // 4]
        assert torch.equal(whole(x, [5], step / 12), now(x, [5], step / 12))
    with pytest.raises(ConfigError, match="equal numbers of sub-policies"):
        Policy.in_turn([policies[1], two.policy().with_fill(0.5)])


@pytest.mark.parametrize("phases", [22, 23, 30, 49])
def test_a_phase_begins_with_its_first_epoch(phases: int) -> None:
    level = np.linspace(0.0, 1.0, phases).reshape(phases, 1, 1, 1)
    policy = Policy(("brightness",), np.ones_like(level), np.ones_like(level), level, level)
    drawn = [float(policy.plan([1], 1, epoch / phases)[0].level[0]) for epoch in range(phases)]
    np.testing.assert_allclose(drawn, level.reshape(-1), atol=1e-6)
