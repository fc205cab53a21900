"""Evolution strategies: unbiased where they claim to be, and how much pairs are worth."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from drift import HORIZON, along, estimator, exact, phi, problem, slope

from metasearch.core.errors import UnsupportedError
from metasearch.estimators.evolution import perturbation


def errors(case: Any, draws: int, truncations: int, **settings: Any) -> np.ndarray[Any, Any]:
    """Estimate of the whole gradient minus the closed form, for many seeds."""
    made = estimator(case, sigma=0.05, **settings)
    found = []
    for seed in range(draws):
        estimates, first = along(made, truncations, seed)
        found.append(sum(slope(one) for one in estimates) - exact(case, first.seeds, first.seed))
    return np.array(found)


def within_its_interval(values: np.ndarray[Any, Any]) -> bool:
    """Whether 0 lies in the 99 % interval of the mean."""
    return abs(values.mean()) < 2.576 * values.std(ddof=1) / math.sqrt(len(values))


@pytest.fixture(scope="module")
def persistent() -> np.ndarray[Any, Any]:
    return errors(problem(), 100, HORIZON, type="pes", steps=1, offsets=False)


def test_pes_is_unbiased_over_twelve_truncations(persistent: np.ndarray[Any, Any]) -> None:
    assert within_its_interval(persistent)


def test_truncation_is_not(persistent: np.ndarray[Any, Any]) -> None:
    """The same problem, the same truncations: the bias of backprop is known, and far outside PES's interval."""
    case = problem()
    made = estimator(case, type="truncated", steps=1, offsets=False)
    bias = []
    for seed in range(10):
        found, first = along(made, HORIZON, seed)
        bias.append(sum(slope(one) for one in found) - exact(case, first.seeds, first.seed))
        known = exact(case, first.seeds, first.seed, truncation=1) - exact(case, first.seeds, first.seed)
        assert bias[-1] == pytest.approx(known, rel=1e-10)
    assert abs(np.mean(bias)) > 2 * 2.576 * persistent.std(ddof=1) / math.sqrt(len(persistent))


def test_es_is_unbiased_on_the_whole_inner_loop() -> None:
    assert within_its_interval(errors(problem(), 60, 1, type="es"))


def test_truncated_es_is_as_short_sighted_as_truncated_backpropagation() -> None:
    """Its mean is the gradient with states at the start of a truncation taken as constants, and far from the whole."""
    case, truncation = problem(), 3
    made = estimator(case, type="truncated_es", steps=truncation, sigma=0.05, offsets=False)
    off, bias = [], []
    for seed in range(100):
        found, first = along(made, HORIZON // truncation, seed)
        total = sum(slope(one) for one in found)
        off.append(total - exact(case, first.seeds, first.seed, truncation=truncation))
        bias.append(total - exact(case, first.seeds, first.seed))
    assert within_its_interval(np.array(off))
    assert abs(np.mean(bias)) > 2 * 2.576 * np.std(bias, ddof=1) / math.sqrt(len(bias))


def test_pairs_lower_the_variance() -> None:
    case = problem()
    pairs = errors(case, 40, 1, type="es")
    single = errors(case, 40, 1, type="es", antithetic=False)
    assert pairs.var() < 0.25 * single.var()


def test_a_shard_s_tasks_share_a_pair_and_shards_do_not() -> None:
    case = problem()
    one = estimator(case, type="es", tasks=4, shard=4)
    four = estimator(case, type="es", tasks=4, shard=1)
    noises = [made.measure(call).extra["noises"] for made in (one, four) for call in made.calls(0, phi(), None, 3)]
    assert len(noises) == 5
    assert len({tuple(entry) for entry in noises[1:]}) == 4


def test_the_estimate_is_its_formula() -> None:
    """From the two losses that the record has, and the perturbation drawn again from its seed."""
    made = estimator(problem(), type="es", sigma=0.1)
    (call,) = made.calls(0, phi(), None, 3)
    measured = made.measure(call)
    found, carried = made.combine([measured])
    noise = float(perturbation(phi().tensors, measured.extra["noises"][0])["update_rule.drift"])
    assert measured.gradient is None
    assert carried is None
    assert slope(found) == pytest.approx((found.metrics["plus"] - found.metrics["minus"]) * noise / 0.2, rel=1e-12)
    assert found.objective == pytest.approx((found.metrics["plus"] + found.metrics["minus"]) / 2, rel=1e-12)


def test_what_pes_carries_are_states_and_seeds() -> None:
    made = estimator(problem(), type="pes", steps=4, offsets=False)
    carried: Any = None
    counts = []
    for index in range(4):
        calls = made.calls(index, phi(), carried, index)
        measured = [made.measure(call) for call in calls]
        counts.append(len(measured[0].extra["noises"]))
        _, carried = made.combine(measured)
    assert counts == [1, 2, 3, 1]  # the accumulated perturbation ends with the trajectory
    assert all(isinstance(seed, int) for seed in carried[0]["kept"]["noises"])
    assert set(carried[0]["kept"]["states"]) == {"plus", "minus"}


def test_perturbations_do_not_depend_on_precision_or_order() -> None:
    tensors = {"b": torch.zeros(3, 2), "a": torch.zeros(4, dtype=torch.float64)}
    one, other = perturbation(tensors, 5), perturbation(dict(reversed(tensors.items())), 5, torch.float64)
    assert all(torch.equal(one[name].double(), other[name].to(one[name].dtype).double()) for name in tensors)


def test_a_reward_split_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="measured at phi itself"):
        estimator(problem(), type="es", reward_split="validation")
