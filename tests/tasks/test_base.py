import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metasearch.core.errors import ConfigError, DataError
from metasearch.tasks.base import ClassPool, FewShot, Pool
from metasearch.tasks.sinusoid import Sinusoid


def numbered(classes, examples):
    """An array whose every example holds its class and its number."""
    grid = np.stack(np.meshgrid(np.arange(classes), np.arange(examples), indexing="ij"), axis=-1)
    return grid.astype(np.float32)


def glyphs(**settings):
    return FewShot({"train": numbered(30, 20), "validation": numbered(8, 20), "test": numbered(9, 20)}, **settings)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 8),
    st.integers(1, 4),
    st.integers(1, 6),
    st.lists(st.integers(0, 2**62), min_size=1, max_size=6),
    st.sampled_from(["train", "validation", "test"]),
)
def test_episodes_keep_support_and_query_apart_and_labels_together(ways, shots, queries, seeds, split):
    tasks = glyphs(ways=ways, shots=shots, queries=queries)
    task = tasks.sample(split, np.array(seeds))
    spec = tasks.spec(split)
    assert task.support.x.shape == (len(seeds), spec.support, *spec.input_shape)
    assert task.query.y.shape == (len(seeds), spec.query)
    for i in range(len(seeds)):
        support, query = ({tuple(example) for example in batch.x[i].tolist()} for batch in (task.support, task.query))
        assert len(support) == spec.support
        assert len(query) == spec.query
        assert not support & query
        for batch in (task.support, task.query):
            drawn = task.info["classes"][i][batch.y[i]]
            assert torch.equal(drawn.float(), batch.x[i, :, 0])
        assert len(set(task.info["classes"][i].tolist())) == ways


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2**62), min_size=2, max_size=6))
def test_a_seed_gives_the_same_task_alone_and_in_a_group(seeds):
    tasks = glyphs(ways=4, shots=2, queries=3)
    group = tasks.sample("train", np.array(seeds))
    for i, seed in enumerate(seeds):
        alone = tasks.sample("train", np.array([seed]))
        assert torch.equal(alone.support.x[0], group.support.x[i])
        assert torch.equal(alone.query.x[0], group.query.x[i])


def test_the_classes_of_a_task_do_not_depend_on_its_number_of_queries():
    few, many = (glyphs(queries=n).sample("test", np.arange(20)).info["classes"] for n in (1, 15))
    assert torch.equal(few, many)


def test_every_class_gets_every_label_equally_often():
    tasks = FewShot({"train": numbered(5, 3)}, ways=5, shots=1, queries=1)
    classes = tasks.sample("train", np.arange(4000)).info["classes"].numpy()
    counts = np.stack([np.bincount(classes[:, label], minlength=5) for label in range(5)])
    assert np.abs(counts - 800).max() < 5 * np.sqrt(800)
    assert (np.diff(classes, axis=1) < 0).any(axis=1).mean() > 0.95


def test_every_example_is_support_equally_often():
    tasks = FewShot({"train": numbered(2, 4)}, ways=2, shots=1, queries=2)
    first = tasks.sample("train", np.arange(4000)).info["examples"][:, :, 0].flatten()
    assert np.abs(np.bincount(first.numpy(), minlength=4) - 2000).max() < 5 * np.sqrt(2000)


def test_classes_of_unequal_size_are_drawn_within_their_own_examples():
    sizes = [3, 11, 6]
    arrays = [numbered(1, n)[0] + np.float32([label, 0]) for label, n in enumerate(sizes)]
    tasks = FewShot({"train": arrays}, ways=3, shots=1, queries=2)
    task = tasks.sample("train", np.arange(200))
    drawn = torch.cat([task.support.x, task.query.x], dim=1).reshape(-1, 2).long()
    for label, n in enumerate(sizes):
        assert sorted(set(drawn[drawn[:, 0] == label, 1].tolist())) == list(range(n))


def test_grouped_classes_come_from_one_group_with_enough_of_them():
    group = np.array([0] * 6 + [1] * 2 + [2] * 4 + [0] * 2)
    tasks = FewShot({"train": numbered(14, 3)}, ways=4, shots=1, queries=1, groups={"train": group})
    drawn = group[tasks.sample("train", np.arange(300)).info["classes"].numpy()]
    assert (drawn == drawn[:, :1]).all()
    assert set(drawn[:, 0]) == {0, 2}
    assert 110 < (drawn[:, 0] == 0).sum() < 190


def test_a_pool_holds_as_many_training_tasks_as_it_says():
    tasks = glyphs(ways=3, queries=2, pool=6)
    group = tasks.sample("train", np.arange(1000, 1060))
    assert len({tuple(row) for row in group.query.x.reshape(60, -1).tolist()}) == 6
    assert np.array_equal(group.seeds, np.arange(1000, 1060))
    held_out = tasks.sample("test", np.arange(60))
    assert len({tuple(row) for row in held_out.query.x.reshape(60, -1).tolist()}) > 50


def test_the_pool_wrapper_gives_the_same_tasks_as_the_setting():
    inner = Pool(Sinusoid(Sinusoid.Config()), 4)
    setting = Sinusoid(Sinusoid.Config(pool=4))
    seeds = np.arange(50, 70)
    a, b = inner.sample("train", seeds), setting.sample("train", seeds)
    assert torch.equal(a.query.y, b.query.y)
    assert np.array_equal(a.seeds, seeds)
    assert len(set(a.info["phase"].tolist())) == 4
    assert inner.spec("test") == setting.spec("test")
    with pytest.raises(ConfigError, match="at least one task"):
        Pool(setting, 0)


def test_bytes_become_levels_from_zero_to_one():
    stored = np.arange(256, dtype=np.uint8).reshape(2, 128, 1)
    tasks = FewShot({"train": stored}, ways=2, shots=1, queries=127)
    x = tasks.decode(tasks.examples("train")[0])
    assert x.dtype == torch.float32
    assert torch.allclose(x.flatten(), torch.arange(256) / 255.0, rtol=1e-7, atol=0)
    assert float(x.max()) == 1.0
    assert (
        FewShot({"train": stored}, ways=2, queries=5, dtype=torch.float64).sample("train", [3]).query.x.dtype
        == torch.float64
    )


def test_supervised_examples_carry_the_class_they_were_given_in():
    tasks = glyphs()
    x, labels = tasks.examples("validation")
    assert x.shape == (160, 2)
    assert torch.equal(x[:, 0].long(), labels)
    assert tasks.n_classes("validation") == 8
    assert tasks.class_names("validation") == [str(i) for i in range(8)]


def test_read_only_arrays_are_accepted():
    array = numbered(6, 3)
    array.flags.writeable = False
    assert len(ClassPool(array)) == 6


@pytest.mark.parametrize(
    ("settings", "path", "words"),
    [
        ({"ways": 9}, "ways", "split 'validation' has 8 classes"),
        ({"ways": {"train": 20, "test": 10}}, "ways", "split 'validation' has 8 classes"),
        ({"shots": 5, "queries": 16}, "queries", "need 21 examples.*lower queries to at most 15"),
        ({"queries": {"train": 5, "test": 20}}, "queries", "split 'validation' has a class with 20"),
        ({"shots": -1}, "shots", "positive integer, got -1"),
    ],
)
def test_impossible_tasks_are_refused_by_the_setting_to_change(settings, path, words):
    with pytest.raises(ConfigError, match=words) as caught:
        glyphs(**settings)
    assert caught.value.path == path


def test_an_unknown_split_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'validation'"):
        glyphs().sample("valdation", np.arange(2))


@pytest.mark.parametrize(
    "by_class",
    [np.zeros(4), [], [np.zeros((3, 2)), np.zeros((3, 4))], [np.zeros((0, 2))], 5, np.zeros((0, 4, 2))],
)
def test_examples_that_do_not_fit_together_are_refused(by_class):
    with pytest.raises(DataError, match="expected"):
        ClassPool(by_class)
    with pytest.raises(DataError, match="a group for each of 3 classes"):
        ClassPool(numbered(3, 2), groups=[0, 1])


def test_unlabelled_examples_are_of_the_tasks_classes_and_of_distractors_and_shared_with_nothing():
    stored = np.arange(10 * 8, dtype=np.float32).reshape(10, 8, 1)  # example j of class i is 8 i + j
    settings = {"ways": 3, "shots": 2, "queries": 3, "unlabelled": {"train": 2, "test": 3}, "distractors": 2}
    tasks = FewShot({"train": stored, "test": stored}, **settings)
    for split, each in (("train", 2), ("test", 3)):
        task = tasks.sample(split, np.arange(20))
        more = task.info["unlabelled"][..., 0]
        assert more.shape == (20, 5 * each)
        assert (task.support.y.shape, task.query.y.shape) == ((20, 6), (20, 9))
        for t in range(20):
            own = task.info["classes"][t].tolist()
            classes = (more[t] // 8).long().tolist()
            assert [own.index(one) for one in classes[: 3 * each]] == [i for i in range(3) for _ in range(each)]
            assert len(set(classes[3 * each :])) == 2
            assert not set(classes[3 * each :]) & set(own)
            shown = torch.cat([task.support.x[t, :, 0], task.query.x[t, :, 0], more[t]])
            assert len(shown.unique()) == len(shown)
    alone = tasks.sample("train", np.array([7]))
    assert torch.equal(alone.info["unlabelled"][0], tasks.sample("train", np.arange(20)).info["unlabelled"][7])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"unlabelled": 3}, "queries: 2 shots and 4 queries, and 3 unlabelled need 9.*lower queries to at most 3"),
        ({"unlabelled": 1, "distractors": 8}, "ways: 3 and 8 distractors were asked for"),
        ({"distractors": 1}, "distractors: have unlabelled examples only"),
        ({"unlabelled": -1}, "unlabelled: expected an integer of at least 0"),
    ],
)
def test_more_unlabelled_examples_than_there_are_is_refused(settings, words):
    stored = np.zeros((10, 8, 1), dtype=np.float32)
    with pytest.raises(ConfigError, match=words):
        FewShot({"train": stored}, **{"ways": 3, "shots": 2, "queries": 4, **settings})
