import numpy as np
import pytest
import torch

from metasearch.core.config import validate
from metasearch.core.errors import ConfigError
from metasearch.core.registry import registry
from metasearch.tasks.omniglot import Omniglot
from metasearch.tasks.omniglot_data import load
from metasearch.tasks.pictures import contact_sheet

SPLITS = ("train", "validation", "test")


def omniglot(**settings):
    return Omniglot(validate(Omniglot.Config, settings, "tasks"))


@pytest.fixture(scope="module")
def default():
    return omniglot()


def characters(tasks, split):
    return {name.split("@")[0] for name in tasks.class_names(split)}


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({}, (1028, 172, 423)),
        ({"split": "random"}, (1100, 100, 423)),
        ({"split": "random", "validation_classes": 7}, (1193, 7, 423)),
        ({"split": "lake", "validation_classes": 1}, (None, None, 659)),
    ],
)
def test_splits_are_disjoint_and_have_their_published_sizes(settings, counts):
    tasks = omniglot(rotations="none", **settings)
    sets = [characters(tasks, split) for split in SPLITS]
    for members, split, count in zip(sets, SPLITS, counts, strict=True):
        assert len(members) == tasks.n_classes(split)
        assert count in (None, len(members))
    assert len(set.union(*sets)) == sum(map(len, sets)) == 1623


def test_lake_holds_out_whole_alphabets():
    tasks = omniglot(split="lake", rotations="none")
    alphabets = [{name.split("/")[0] for name in tasks.class_names(split)} for split in SPLITS]
    assert not alphabets[0] & alphabets[1]
    assert len(alphabets[0] | alphabets[1]) == 30
    assert len(alphabets[2]) == 20
    assert 100 <= tasks.n_classes("validation") < 155


def test_no_validation_characters_means_no_validation_split():
    tasks = omniglot(split="random", validation_classes=0, rotations="none")
    assert tasks.n_classes("train") == 1200
    with pytest.raises(ConfigError, match="no split 'validation'; valid: test, train"):
        tasks.spec("validation")


def test_the_split_seed_moves_the_random_split_and_nothing_else():
    first, again, other = (omniglot(split="random", split_seed=seed, rotations="none") for seed in (0, 0, 1))
    assert first.class_names("test") == again.class_names("test") != other.class_names("test")


@pytest.mark.parametrize(("rotations", "counts"), [("none", (1, 1, 1)), ("train", (4, 1, 1)), ("all", (4, 4, 4))])
def test_rotations_multiply_the_classes_of_their_splits_by_four(rotations, counts):
    tasks = omniglot(rotations=rotations)
    assert [tasks.n_classes(split) for split in SPLITS] == [
        k * n for k, n in zip(counts, (1028, 172, 423), strict=True)
    ]
    assert len(set(tasks.class_names("train"))) == tasks.n_classes("train")


def test_a_rotated_class_shows_its_character_turned(default):
    stored, labels = default.examples("train")
    names = default.class_names("train")
    upright, turned = names.index("Greek/character03@0"), names.index("Greek/character03@90")
    assert torch.equal(torch.rot90(stored[labels == upright], 1, (2, 3)), stored[labels == turned])


def test_pictures_have_ink_as_one_on_an_empty_margin(default):
    task = default.sample("train", np.arange(8))
    assert task.support.x.shape == (8, 5, 1, 28, 28)
    assert task.query.x.shape == (8, 75, 1, 28, 28)
    assert task.query.x.dtype == torch.float32
    assert float(task.query.x.min()) >= 0.0
    assert 0.9 < float(task.query.x.max()) <= 1.0
    assert 0.05 < float(task.query.x.mean()) < 0.12
    assert float(task.query.x[..., 0, :].mean()) < 0.02


def test_info_names_the_drawings_that_are_shown(default):
    task = default.sample("test", np.array([5]))
    names, pictures = load("bundled", 28)
    label, shown = 2, 0
    name = default.class_names("test")[int(task.info["classes"][0, label])].split("@")[0]
    character = next(i for i, full in enumerate(names) if full.endswith("/" + name))
    drawer = int(task.info["examples"][0, label, 1 + shown])
    expected = torch.from_numpy(pictures[character, drawer] / 255.0).float()
    assert torch.allclose(task.query.x[0, label * 15 + shown, 0], expected)


def test_the_same_seed_gives_the_same_task_wherever_it_stands(default):
    seeds = np.array([2**61 + 3, 4, 99])
    group = default.sample("train", seeds)
    alone = default.sample("train", seeds[1:2])
    assert torch.equal(alone.support.x[0], group.support.x[1])
    assert torch.equal(alone.query.x[0], group.query.x[1])


def test_fixed_seeds_keep_their_tasks_across_versions(default):
    task = default.sample("train", np.array([0, 1]))
    assert task.info["classes"].tolist() == [[1791, 2726, 2419, 2049, 3585], [136, 391, 3083, 3284, 1558]]
    assert task.info["examples"][:, 0, :4].tolist() == [[4, 0, 19, 10], [8, 4, 9, 17]]


def test_within_alphabet_tasks_have_one_alphabet_in_one_orientation():
    tasks = omniglot(split="lake", within_alphabet=True, ways=20, queries=1)
    names = np.array(tasks.class_names("train"))
    for row in tasks.sample("train", np.arange(20)).info["classes"].numpy():
        assert len({(name.split("/")[0], name.split("@")[1]) for name in names[row]}) == 1


def test_each_split_has_its_own_number_of_queries():
    tasks = omniglot(queries={"train": 1, "test": 15})
    assert [tasks.spec(split).query for split in SPLITS] == [5, 75, 75]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ways": 173}, "ways: .*split 'validation' has 172 classes"),
        ({"shots": 6, "queries": 15}, "queries: .*need 21 examples"),
        ({"split": "vinyal"}, "tasks.split: .*'vinyals', 'random' or 'lake'"),
        ({"validation_classes": 50}, "validation_classes: .*its own 172"),
        ({"split": "random", "validation_classes": 1200}, "validation_classes: .*leave none of 1200"),
        ({"within_alphabet": True, "ways": 50}, "largest group"),
        ({"image_sise": 28}, "tasks.image_sise: unknown key; did you mean 'image_size'"),
    ],
)
def test_impossible_settings_are_refused_with_what_to_change(settings, words):
    with pytest.raises(ConfigError, match=words):
        omniglot(**settings)


def test_the_registry_knows_all_bundled_tasks():
    import metasearch.tasks  # noqa: F401

    assert registry("task").get("omniglot") is Omniglot
    assert {"sinusoid", "quadratic"} <= set(registry("task"))


def test_a_contact_sheet_has_a_row_a_class_and_dark_ink(default):
    task = default.sample("test", np.arange(3))
    sheet = contact_sheet(task, index=1, queries=4)
    assert sheet.shape == (5 * 30 - 2, 5 * 30 + 2)
    assert np.array_equal(sheet[:28, :28], 255 - np.round(task.support.x[1, 0, 0].numpy() * 255))
    assert np.array_equal(sheet[30:58, 34:62], 255 - np.round(task.query.x[1, 15, 0].numpy() * 255))
    assert sheet.mean() > 200


def test_validation_characters_may_be_trained_on_with_their_rotations_and_then_measure_nothing():
    both = omniglot(train_on=["train", "validation"])
    assert both.n_classes("train") == 4 * (1028 + 172)
    apart = omniglot()
    assert characters(both, "train") == characters(apart, "train") | characters(apart, "validation")
    assert characters(both, "test") == characters(apart, "test")
    with pytest.raises(ConfigError, match="no split 'validation'"):
        both.spec("validation")
    with pytest.raises(ConfigError, match="train_on: expected train"):
        omniglot(train_on=["validation"])


LAKE = {"split": "lake", "within_alphabet": True, "ways": 20, "queries": 1, "rotations": "all", "validation_classes": 1}


def test_lakes_runs_are_20_alphabet_tasks_by_two_people_each():
    tasks = omniglot(**LAKE, lake_runs=True)
    assert (tasks.n_tasks("test"), tasks.n_tasks("train")) == (20, None)
    task = tasks.sample("test", np.arange(20))
    names = [[tasks.class_names("test")[i] for i in row] for row in task.info["classes"].tolist()]
    alphabets = [{name.split("/")[0] for name in row} for row in names]
    assert all(len(set(row)) == 20 and len(found) == 1 for row, found in zip(names, alphabets, strict=True))
    assert alphabets[::2] == alphabets[1::2]
    assert len(set.union(*alphabets)) == 10
    assert all(name.endswith("@0") for row in names for name in row)
    people = task.info["examples"].numpy()
    assert (people == people[:, :1]).all()
    assert (people[:, 0, 0] != people[:, 0, 1]).all()
    assert names[2][0].startswith("Ge_ez/")
    assert people[0, 0].tolist() == [4, 7]  # the authors' run01: class01.png is by drawer 5, the items are by drawer 8
    source, pictures = load("bundled", 28)
    first = source.index("images_evaluation/" + names[0][0].split("@")[0])
    assert torch.allclose(task.support.x[0, 0, 0], torch.from_numpy(pictures[first, 4] / 255.0).float())
    assert torch.equal(tasks.sample("test", np.array([23])).query.x[0], task.query.x[3])


def test_the_same_people_draw_all_classes_of_a_task():
    tasks = omniglot(**{**LAKE, "queries": 2}, same_drawers=True)
    people = tasks.sample("train", np.arange(10)).info["examples"].numpy()
    assert (people == people[:, :1]).all()
    assert all(len(set(row[0])) == 3 for row in people)
    assert len(np.unique(people[:, 0], axis=0)) > 5


@pytest.mark.parametrize("changes", [{"split": "vinyals", "validation_classes": None}, {"ways": 5}, {"queries": 2}])
def test_lakes_runs_fit_one_kind_of_task_only(changes):
    with pytest.raises(ConfigError, match=r"lake_runs: are tasks of split lake with 20 ways, 1 shot and 1 query"):
        omniglot(**{**LAKE, **changes}, lake_runs=True)
