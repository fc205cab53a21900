"""``searcher.average``: validation, test and artifact are of the average of the phis that a search went through."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from records import of_type

import metasearch as ms
from metasearch import artifacts
from metasearch.core.values import Tensors
from metasearch.running import extend
from metasearch.trees import override

DECAY = 0.2
Ended = Callable[..., Path]
"""Runs a search of three steps to its end, with some settings changed; the run's directory."""


@pytest.fixture
def ended(tiny: dict[str, Any], tmp_path: Path) -> Ended:
    short = override(
        tiny,
        {
            "searcher.lr": 0.1,
            "evaluation.tasks": 2,
            "evaluation.shard": 2,
            "validation": None,
            "test": None,
            "budget.steps": 3,
            "numerics.dtype": "float64",
        },
    )

    def run(**changes: Any) -> Path:
        return ms.run(override(short, changes), runs=tmp_path).directory.path

    return run


def found(path: Path) -> Tensors:
    return dict(artifacts.load(path / "phi").phi.tensors)


def averages(ended: Ended) -> list[Tensors]:
    """After each step, from shorter searches (one of them too slow to move)."""
    mean = found(ended(**{"searcher.lr": 1e-300, "budget.steps": 1}))
    means = []
    for step in range(3):
        now, decay = found(ended(**{"budget.steps": step + 1})), min(DECAY, (1 + step) / (10 + step))
        mean = {name: decay * tensor + (1 - decay) * now[name] for name, tensor in mean.items()}
        means.append(mean)
    return means


def test_a_search_gives_the_average_also_if_it_was_interrupted(ended: Ended) -> None:
    expected = averages(ended)[-1]
    whole = found(ended(**{"searcher.average": DECAY}))
    torch.testing.assert_close(whole, expected)
    part = ended(**{"searcher.average": DECAY, "budget.steps": 1})
    torch.testing.assert_close(found(extend(part, ["budget.steps=3"]).directory.path), whole, rtol=0, atol=0)


def test_validation_measures_the_average(ended: Ended) -> None:
    expected = averages(ended)
    path = ended(**{"searcher.average": DECAY, "validation": {"every": 1, "episodes": 4}})
    plain = ended(validation={"every": 1, "episodes": 4})
    measured, other = ([one["L"] for one in of_type(run, "validation")] for run in (path, plain))
    assert len(measured) == 3
    assert not set(measured) & set(other)
    torch.testing.assert_close(found(path), expected[measured.index(min(measured))])
