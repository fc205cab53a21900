"""Training runs that are searched over: what they do, that they can be continued, and what is taken away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torch.nn import functional as F

import metasearch as ms
from metasearch.artifacts import Manifest
from metasearch.core.contracts import Trial
from metasearch.core.errors import ConfigError
from metasearch.core.seeds import Draws
from metasearch.core.values import Call, Phi
from metasearch.loaded import load
from metasearch.resolution import load as load_experiment
from metasearch.takeaway.augmentation import policy_of
from metasearch.takeaway.found import found_schedule
from metasearch.tracking.journal import read

DRAWINGS = {"type": "omniglot", "classes": 5, "train": 3, "validation": 2, "test": 3, "image_size": 14}
NET = {"type": "conv4", "filters": 4, "blocks": 2, "norm": "running", "stride": 2}


def tree(augmentation: Any, **changes: Any) -> dict[str, Any]:
    evaluation = {
        "type": "training",
        "data": DRAWINGS,
        "model": NET,
        "augmentation": augmentation,
        "epochs": 3,
        "batch": 6,
        **changes.pop("evaluation", {}),
    }
    return {
        "name": "augmented",
        "evaluation": evaluation,
        "searcher": {"type": "random"},
        "budget": {"evaluations": 2},
        "execution": {"type": "inline"},
        "tracking": {"mlflow": False, "report": False},
        **changes,
    }


FREE_RATE = {"lr": {"float": [0.01, 0.1]}}
"""Something to search, where the policy is given."""


class Recorder(Trial):
    """Keeps what a run reports, and stops it where it is told to."""

    def __init__(self, folder: Path, restored: Path | None = None, stop: int | None = None) -> None:
        self.id, self.seed, self.restored = 0, 5, restored
        self.reports: dict[int, dict[str, float]] = {}
        self._folder, self._stop = folder, stop

    def report(self, step: int, **metrics: float) -> None:
        self.reports[step] = metrics
        if step == self._stop:
            raise KeyboardInterrupt

    def checkpoint(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder


def run(program: Any, trial: Recorder, choices: dict[str, Any] | None = None) -> Any:
    call = Call(0, 0, "train", Phi(choices=choices or {}), (5,), 5, extra={"trial": True})
    return program.run(call, trial)


def test_a_run_that_is_continued_ends_as_one_that_was_not_interrupted(tmp_path: Path) -> None:
    program = load_experiment(tree({"type": "uniform", "operations": "strokes", "high": {"float": [0.1, 1.0]}})).program
    choices = {"evaluation.augmentation.high": 0.5}
    whole = Recorder(tmp_path / "whole")
    expected = run(program, whole, choices)
    with pytest.raises(KeyboardInterrupt):
        run(program, Recorder(tmp_path / "part", stop=2), choices)
    continued = Recorder(tmp_path / "more", restored=tmp_path / "part")
    found = run(program, continued, choices)
    assert continued.reports == {3: whole.reports[3]}
    np.testing.assert_array_equal(found.query, expected.query)
    assert {k: v.tolist() for k, v in found.metrics.items()} == {k: v.tolist() for k, v in expected.metrics.items()}
    assert set(found.metrics) == {"accuracy", "loss", "test_L", "test_accuracy", "test_loss"}
    assert found.query[0] == 1.0 - found.metrics["accuracy"][0]
    other = run(program, Recorder(tmp_path / "other"), {"evaluation.augmentation.high": 0.9})
    assert other.metrics["loss"] != found.metrics["loss"]


def test_a_policy_that_changed_on_the_way_is_taken_away_with_its_changes(tmp_path: Path) -> None:
    """A member of a population, and an undisturbed training with what is taken away, are the same to the last bit."""
    family = {"type": "schedule", "phases": 1, "places": 1, "operations": "strokes"}
    experiment = load_experiment(tree(family))
    first, then = (experiment.space.sample(seed) for seed in (1, 2))
    with pytest.raises(KeyboardInterrupt):
        run(experiment.program, Recorder(tmp_path / "part", stop=2), first)
    member = run(experiment.program, Recorder(tmp_path / "more", restored=tmp_path / "part"), then)
    config = {**experiment.tree, "scheduler": {"type": "pbt", "population": 4, "max": 3}}
    pieces = [{"from": 0, "choices": first}, {"from": 2, "choices": then}]
    manifest = Manifest.model_construct(config=config, schedule=pieces)
    policy = policy_of(manifest, Phi(choices=then))
    assert policy.phases == 3
    (tmp_path / "policy.json").write_text(policy.to_json())
    given = load_experiment(tree({"type": "given", "file": str(tmp_path / "policy.json")}, evaluation=FREE_RATE))
    found = run(given.program, Recorder(tmp_path / "whole"), {"evaluation.lr": 0.05})
    assert found.metrics["loss"] == member.metrics["loss"]
    np.testing.assert_array_equal(found.query, member.query)
    fixed = run(experiment.program, Recorder(tmp_path / "fixed"), then)
    assert fixed.metrics["loss"] != member.metrics["loss"]
    assert found_schedule(manifest).config(2)["epochs"] == 3


def test_a_run_is_the_training_that_a_plain_loop_does(tmp_path: Path) -> None:
    """Without momentum, augmentation or batches: gradient descent on all pictures, written out."""
    changes = {"epochs": 2, "batch": 100, "momentum": 0.0, "weight_decay": 0.0, "measure": "loss",
               "model": {"type": "mlp", "hidden": [3]}}  # fmt: skip
    program = load_experiment(
        {**tree("none", evaluation=changes), "numerics": {"dtype": "float64"}, "searcher": {"type": "random"}}
        | {"evaluation": {**tree("none", evaluation=changes)["evaluation"], "lr": {"float": [0.05, 0.2]}}}
    ).program
    found = run(program, Recorder(tmp_path), {"evaluation.lr": 0.1})

    from metasearch.core.seeds import derive
    from metasearch.core.values import TaskSpec
    from metasearch.models import build_model
    from metasearch.tasks.labelled import source

    data = source(DRAWINGS).load().splits
    spec = TaskSpec("classification", (1, 14, 14), 5, 15, 0)
    theta, _ = build_model({"type": "mlp", "hidden": [3]}, spec).init(derive(5, "network"))
    theta = {name: value.double().requires_grad_() for name, value in theta.items()}
    x = torch.from_numpy(data["train"][0]).double() / 255
    mean, deviation = x.mean(), x.std()

    def loss(split: str) -> torch.Tensor:
        pictures, labels = (torch.from_numpy(one) for one in data[split])
        given = ((pictures.double() / 255 - mean) / deviation).flatten(1)
        weights, biases = (
            [value for name, value in theta.items() if name.endswith(kind)] for kind in (".weight", ".bias")
        )
        hidden = torch.relu(given @ weights[0].T + biases[0])
        return F.cross_entropy(hidden @ weights[1].T + biases[1], labels)

    for rate in (0.1, 0.05):
        gradients = torch.autograd.grad(loss("train"), list(theta.values()))
        theta = {
            name: (value - rate * gradient).detach().requires_grad_()
            for (name, value), gradient in zip(theta.items(), gradients, strict=True)
        }
    assert found.query[0] == pytest.approx(loss("validation").item(), rel=1e-10)
    assert found.metrics["test_L"][0] == pytest.approx(loss("test").item(), rel=1e-10)


def test_flips_and_shifts_move_whole_pictures() -> None:
    from metasearch.evaluation.training import shifted

    x = torch.arange(2.0 * 5 * 6).reshape(2, 1, 5, 6) + 1
    padded = F.pad(x, (2, 2, 2, 2))
    for seed in range(6):
        moved = shifted(x, seed, flip=True, crop=2)
        for i in range(2):
            windows = [
                one[:, down : down + 5, across : across + 6]
                for one in (padded[i], F.pad(x[i].flip(-1), (2, 2, 2, 2)))
                for down in range(5)
                for across in range(5)
            ]
            assert any(torch.equal(moved[i], window) for window in windows)


def test_a_policy_is_searched_and_taken_away(tmp_path: Path) -> None:
    space = {"type": "sub_policies", "count": 2, "places": 1, "operations": "strokes"}
    outcome = ms.run(
        tree(space, searcher={"type": "policy", "algorithm": "ppo", "policy": "lstm", "hidden": 4}), runs=tmp_path
    )
    learned = load(outcome.phi_path)
    assert sorted(name.partition("augmentation.")[2] for name in learned.choices) == [
        f"{i}.0.{part}" for i in range(2) for part in ("level", "operation", "probability")
    ]
    augment = learned.augmentation()
    first = learned.choices["evaluation.augmentation.0.0.operation"]
    assert first in augment.policy.operations
    assert augment(Image.new("L", (14, 14))).size == (14, 14)
    reports = [one for one in read(outcome.directory.journal_path) if one["type"] == "report"]
    assert [one["step"] for one in reports] == [1, 2, 3] * 2


def test_what_is_described_wrong_is_refused_before_it_starts() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.augmentation.*rotate"):
        load_experiment(tree({"type": "sub_policies", "operations": ["rotat"]}))
    with pytest.raises(ConfigError, match=r"evaluation\.data"):
        load_experiment(tree({"type": "sub_policies"}, evaluation={"data": {"type": "omniglo"}}))


class Small(nn.Module):
    """A network of a user's own."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
        self.head = nn.Linear(8 * 16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).flatten(1))


def _bars(folder: Path) -> Path:
    """Two classes of pictures: a bar that lies and one that stands, somewhere, in some colour."""
    for label, name in enumerate(("lying", "standing")):
        (folder / name).mkdir(parents=True)
        for n in range(24):
            u = Draws([n], f"bar {label}").uniform(6)[0]
            pixels = np.full((16, 16, 3), 30 + 60 * u[5], dtype=np.uint8)
            at, start = int(2 + 11 * u[0]), int(6 * u[1])
            bar = (slice(at, at + 2), slice(start, start + 9))
            pixels[bar if label == 0 else bar[::-1]] = (80 + 170 * u[2:5]).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{n:02d}.png")
    return folder


@pytest.mark.ray
@pytest.mark.slow
def test_a_population_searches_the_schedule_of_a_policy(local_ray: None, tmp_path: Path) -> None:
    tiny = {
        "data": DRAWINGS,
        "model": NET,
        "batch": 6,
        "epochs": 4,
        "augmentation": {"type": "schedule", "phases": 1, "places": 1, "operations": "strokes"},
    }
    file = yaml.safe_load((Path(__file__).parents[2] / "experiments" / "augment_pbt.yaml").read_text())
    changes = {
        "variants": None,
        "seeds": None,
        "evaluation": {**file["evaluation"], **tiny},
        "scheduler": {"type": "pbt", "population": 4, "max": 4, "interval": 1},
        "budget": {"evaluations": 4},
        "tracking": {"mlflow": False, "report": False},
    }
    outcome = ms.run({**file, **changes}, runs=tmp_path)
    changed = [one for one in read(outcome.directory.journal_path) if one["type"] == "event"]
    assert [one["detail"]["step"] for one in changed if one["event"] == "population"] == [1, 2, 3]
    assert load(outcome.phi_path).augmentation().policy.phases == 4


@pytest.mark.slow
def test_a_policy_is_searched_on_ones_own_pictures_and_network_and_used_in_ordinary_training(tmp_path: Path) -> None:
    folder = _bars(tmp_path / "bars")
    outcome = ms.search(
        name="bars",
        evaluation={
            "type": "training",
            "data": {"type": "image_folder", "folder": str(folder), "image_size": 16, "held_out": [0.25, 0.25]},
            "model": Small,
            "augmentation": {"type": "sub_policies", "count": 2},
            "epochs": 15,
            "batch": 8,
            "lr": 0.05,
        },
        searcher={"type": "optuna", "sampler": "tpe"},
        budget={"evaluations": 8},
        execution={"type": "inline"},
        tracking={"mlflow": False},
        runs=str(tmp_path / "runs"),
    )
    augment = ms.load(outcome.phi_path).augmentation()

    pictures = [np.array(Image.open(path)) for path in sorted(folder.glob("*/*.png"))]
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    y = torch.arange(2).repeat_interleave(24)
    held = torch.arange(48) % 4 == 0
    torch.manual_seed(0)
    net = Small()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(60):
        for rows in torch.randperm(36).split(9):
            optimizer.zero_grad()
            F.cross_entropy(net(augment(x[~held][rows]).float() / 64 - 1), y[~held][rows]).backward()
            optimizer.step()
    accuracy = (net(x[held].float() / 64 - 1).argmax(1) == y[held]).float().mean()
    assert accuracy > 0.8
    assert outcome.results["selected"]["L"] < 0.3
