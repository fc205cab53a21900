import numpy as np
import pytest
import torch

from metasearch.core.config import validate
from metasearch.core.errors import ConfigError
from metasearch.tasks.sinusoid import Sinusoid


def sinusoid(dtype=torch.float64, **settings):
    return Sinusoid(validate(Sinusoid.Config, settings, "tasks"), dtype=dtype)


def test_targets_follow_the_formula_of_their_own_task():
    task = sinusoid(frequency=[0.8, 1.2]).sample("train", np.arange(40))
    amplitude, phase, frequency = (task.info[name][:, None, None] for name in ("amplitude", "phase", "frequency"))
    for batch in (task.support, task.query):
        assert torch.allclose(batch.y, amplitude * torch.sin(frequency * batch.x - phase), rtol=0, atol=1e-12)


def test_parameters_fill_their_published_ranges():
    task = sinusoid().sample("train", np.arange(4000))
    for name, low, high in (("amplitude", 0.1, 5.0), ("phase", 0.0, np.pi)):
        values = task.info[name].numpy()
        assert low <= values.min() < low + 0.01
        assert high - 0.01 < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / np.sqrt(12 * 4000)
    assert (task.info["frequency"] == 1.0).all()
    assert -5.0 <= float(task.query.x.min()) < -4.99 < 4.99 < float(task.query.x.max()) <= 5.0


def test_shapes_are_those_of_the_spec():
    tasks = sinusoid(dtype=torch.float32, shots=5, queries={"train": 10, "test": 100})
    for split, query in (("train", 10), ("validation", 100), ("test", 100)):
        task, spec = tasks.sample(split, np.arange(3)), tasks.spec(split)
        assert (spec.kind, spec.outputs, spec.support, spec.query) == ("regression", 1, 5, query)
        assert task.support.x.shape == task.support.y.shape == (3, 5, 1)
        assert task.query.y.shape == (3, query, 1)
        assert task.query.x.dtype == torch.float32


def test_a_seed_gives_the_same_task_alone_and_in_a_group():
    tasks = sinusoid()
    group, alone = tasks.sample("train", np.array([9, 5, 2**62])), tasks.sample("train", np.array([5]))
    assert torch.equal(group.query.y[1], alone.query.y[0])
    assert torch.equal(group.support.x[1], alone.support.x[0])


def test_splits_share_no_task():
    tasks = sinusoid()
    train, test = (set(tasks.sample(split, np.arange(50)).info["amplitude"].tolist()) for split in ("train", "test"))
    assert not train & test


def test_a_pool_repeats_its_tasks():
    tasks = sinusoid(pool=3)
    assert len(set(tasks.sample("train", np.arange(30)).info["phase"].tolist())) == 3
    assert len(set(tasks.sample("test", np.arange(30)).info["phase"].tolist())) == 30


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"amplitude": [5.0, 0.1]}, r"tasks.amplitude: expected finite \[low, high\]"),
        ({"frequency": [1.0, float("inf")]}, "tasks.frequency: expected finite"),
        ({"shots": 0}, "tasks.shots: expected a positive integer"),
        ({"pool": 0}, "tasks.pool"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        sinusoid(**settings)


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="no split 'dev'; valid: test, train, validation"):
        sinusoid().spec("dev")
