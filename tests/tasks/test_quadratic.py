import numpy as np
import pytest
import torch

from metasearch.core.config import validate
from metasearch.core.errors import ConfigError
from metasearch.tasks.quadratic import Quadratic


def quadratic(**settings):
    return Quadratic(validate(Quadratic.Config, settings, "tasks"), dtype=torch.float64)


def test_gradient_descent_ends_where_the_closed_form_says():
    task = quadratic(dimensions=3, shots=12).sample("train", np.arange(5))
    x, y, solution = task.support.x, task.support.y, task.info["solution"][:, :, None]
    curvature = x.transpose(1, 2) @ x / x.shape[1]
    theta = start = torch.ones(5, 3, 1, dtype=torch.float64)
    for _ in range(7):
        theta = theta - 0.05 * (2.0 / x.shape[1]) * x.transpose(1, 2) @ (x @ theta - y)
    contraction = torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) - 0.1 * curvature, 7)
    assert torch.allclose(theta, solution + contraction @ (start - solution), rtol=0, atol=1e-12)


def test_inputs_have_the_stated_variances():
    x = quadratic(dimensions=3, condition=100.0, shots=50).sample("train", np.arange(400)).support.x.reshape(-1, 3)
    assert torch.allclose(x.var(dim=0), torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64), rtol=0.06)
    assert abs(float(x.mean())) < 0.02


def test_solutions_are_spread_around_their_center():
    solution = quadratic(center=3.0, spread=0.5).sample("train", np.arange(2000)).info["solution"]
    assert abs(float(solution.mean()) - 3.0) < 0.03
    assert abs(float(solution.std()) - 0.5) < 0.02


def test_noise_is_what_the_solution_does_not_explain():
    task = quadratic(noise=0.2, shots=40).sample("train", np.arange(200))
    residual = task.support.y - task.support.x @ task.info["solution"][:, :, None]
    assert abs(float(residual.std()) - 0.2) < 0.01


def test_a_seed_gives_the_same_task_alone_and_in_a_group():
    tasks = quadratic(noise=0.1)
    group, alone = tasks.sample("test", np.array([8, 3])), tasks.sample("test", np.array([3]))
    assert torch.equal(group.query.y[1], alone.query.y[0])
    assert torch.equal(group.support.x[1], alone.support.x[0])
    assert group.support.x.shape == (2, 8, 4)


@pytest.mark.parametrize(
    ("settings", "path"),
    [({"condition": 0.5}, "tasks.condition"), ({"spread": -1.0}, "tasks.spread"), ({"pool": 0}, "tasks.pool")],
)
def test_wrong_settings_are_refused(settings, path):
    with pytest.raises(ConfigError) as caught:
        quadratic(**settings)
    assert caught.value.path == path


def test_a_pool_repeats_its_tasks_and_an_unknown_split_is_refused():
    tasks = quadratic(pool=2)
    assert len(set(tasks.sample("train", np.arange(10)).info["solution"][:, 0].tolist())) == 2
    with pytest.raises(ConfigError, match="no split 'dev'"):
        tasks.sample("dev", np.arange(2))


def test_independent_targets_give_the_random_problems_of_the_learned_optimizer_paper():
    """|W theta - y|^2 with all numbers from U[0, 1), ten dimensions, and one set for learning and judging."""
    tasks = quadratic(dimensions=10, shots=10, condition=1, inputs="uniform", targets="independent", shared=True)
    task = tasks.sample("train", np.arange(300))
    assert task.query is task.support
    assert tasks.spec("train").query == 10
    for numbers in (task.support.x, task.support.y):
        assert 0 <= float(numbers.min()) < 0.01
        assert 0.99 < float(numbers.max()) < 1
        assert abs(float(numbers.mean()) - 0.5) < 0.02
    solved = torch.linalg.solve(task.support.x, task.support.y)
    assert float((task.support.x @ solved - task.support.y).abs().max()) < 1e-6  # each has a minimum of 0
    correlation = torch.corrcoef(torch.stack([task.support.x[:, 0].sum(-1), task.support.y[:, 0, 0]]))[0, 1]
    assert abs(float(correlation)) < 0.2
