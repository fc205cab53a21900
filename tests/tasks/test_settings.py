import numpy as np
import pytest

from metasearch.core.config import Config, validate
from metasearch.core.errors import ConfigError
from metasearch.tasks.settings import PerSplit, at_split, per_split, pool_seeds


class Sizes(Config):
    queries: PerSplit = per_split(15)


def test_one_number_counts_for_every_split():
    assert per_split(3) == {"train": 3, "validation": 3, "test": 3}


def test_a_split_that_is_left_out_takes_the_count_of_the_other_held_out_split():
    assert per_split({"train": 5, "test": 15})["validation"] == 15
    assert per_split({"train": 5, "validation": 7})["test"] == 7
    assert per_split({"train": 5}) == per_split(5)


def test_the_resolved_mapping_is_read_back_to_itself():
    sizes = validate(Sizes, {"queries": {"train": 5, "test": 15}})
    assert validate(Sizes, sizes.model_dump()) == sizes


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        (0, "tasks.queries", "positive integer, got 0"),
        (True, "tasks.queries", "positive integer"),
        (1.5, "tasks.queries", "positive integer"),
        ({"train": 5, "test": "many"}, "tasks.queries.test", "got 'many'"),
        ({"train": 5, "tset": 5}, "tasks.queries", "did you mean 'test'?"),
        ({"test": 5}, "tasks.queries.train", "is required"),
    ],
)
def test_a_wrong_count_is_refused_with_its_dotted_path(value, path, words):
    with pytest.raises(ConfigError) as caught:
        validate(Sizes, {"queries": value}, "tasks")
    assert caught.value.path == path
    assert words in str(caught.value)


def test_a_split_of_the_users_own_has_the_counts_of_validation():
    assert at_split(per_split({"train": 1, "validation": 2}), "search_validation") == 2


def test_a_pool_applies_to_training_only():
    seeds = np.arange(100)
    assert len(set(pool_seeds(seeds, 7, "train"))) == 7
    assert np.array_equal(pool_seeds(seeds, 7, "test"), seeds)
    assert np.array_equal(pool_seeds(seeds, None, "train"), seeds)
