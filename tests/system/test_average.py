"""``searcher.average``: validation, test and artifact are of the average of the phis that a search went through."""

from pathlib import Path
from typing import Any

import torch
from records import of_type

import metasearch as ms
from metasearch import artifacts
from metasearch.core.values import Tensors
from metasearch.running import extend
from metasearch.trees import override

TREE: dict[str, Any] = {
    "name": "averaged",
    "tasks": {"type": "sinusoid", "shots": 5, "queries": 5},
    "learner": {"recipe": "maml", "model": {"type": "mlp", "hidden": [4]}, "steps": 1},
    "searcher": {"type": "gradient", "lr": 0.1},
    "evaluation": {"type": "episodes", "estimator": "backprop", "tasks": 2, "shard": 2},
    "validation": None,
    "test": None,
    "budget": {"steps": 3},
    "execution": {"type": "inline"},
    "numerics": {"compile": "never", "dtype": "float64"},
    "tracking": {"mlflow": False, "report": False},
}
DECAY = 0.2


def ended(folder: Path, **changes: Any) -> Path:
    return ms.run(override(TREE, changes), runs=folder).directory.path


def found(path: Path) -> Tensors:
    return dict(artifacts.load(path / "phi").phi.tensors)


def averages(folder: Path) -> list[Tensors]:
    """After each step, from shorter searches (one of them too slow to move)."""
    mean = found(ended(folder, **{"searcher.lr": 1e-300, "budget.steps": 1}))
    means = []
    for step in range(3):
        now, decay = found(ended(folder, **{"budget.steps": step + 1})), min(DECAY, (1 + step) / (10 + step))
        mean = {name: decay * tensor + (1 - decay) * now[name] for name, tensor in mean.items()}
        means.append(mean)
    return means


def test_a_search_gives_the_average_also_if_it_was_interrupted(tmp_path: Path) -> None:
    expected = averages(tmp_path)[-1]
    whole = found(ended(tmp_path, **{"searcher.average": DECAY}))
    torch.testing.assert_close(whole, expected)
    part = ended(tmp_path, **{"searcher.average": DECAY, "budget.steps": 1})
    torch.testing.assert_close(found(extend(part, ["budget.steps=3"]).directory.path), whole, rtol=0, atol=0)


def test_validation_measures_the_average(tmp_path: Path) -> None:
    expected = averages(tmp_path)
    path = ended(tmp_path, **{"searcher.average": DECAY, "validation": {"every": 1, "episodes": 4}})
    plain = ended(tmp_path, validation={"every": 1, "episodes": 4})
    measured, other = ([one["L"] for one in of_type(run, "validation")] for run in (path, plain))
    assert len(measured) == 3
    assert not set(measured) & set(other)
    torch.testing.assert_close(found(path), expected[measured.index(min(measured))])
