import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import metasearch as ms
from metasearch.core.errors import ArtifactError, ConfigError
from metasearch.core.values import TaskSpec
from metasearch.evaluation.baselines import Pretrained
from metasearch.loaded import load
from metasearch.measuring import evaluate_steps
from metasearch.resolution import resolve
from metasearch.running import run
from metasearch.tasks.sinusoid import Sinusoid
from metasearch.testing.phi import LEARNER, stored_phi

SINUSOID = {"type": "sinusoid", "shots": 5, "queries": 5}
LINE = TaskSpec("regression", (1,), 1, 5, 5)
SLOW = {**LEARNER, "slots": {**LEARNER["slots"], "learning_rates": {"type": "fixed", "value": 0.01}}}
FIGURES = ("L", "L_ci95", "episodes", "parameters")


def few_shot(ways: int = 3) -> ms.FewShot:
    points = np.random.default_rng(0).random((2, 12, 6, 4), dtype=np.float32)
    return ms.FewShot({"train": points[0], "test": points[1]}, ways=ways, shots=1, queries=2)


@pytest.fixture
def sine(tmp_path: Path) -> Path:
    return stored_phi(tmp_path / "sine", learner=SLOW, spec=LINE, config={"tasks": SINUSOID})


def test_it_repeats_the_test_of_the_search_digit_for_digit(tmp_path: Path) -> None:
    experiment: dict[str, Any] = {
        "tasks": SINUSOID,
        "learner": {"recipe": "maml", "model": {"type": "mlp", "hidden": [8]}, "slots": SLOW["slots"]},
        "searcher": {"type": "gradient", "lr": 0.01},
        "evaluation": {"type": "episodes", "estimator": "backprop", "tasks": 4, "shard": 2},
        "validation": {"every": 2, "episodes": 4},
        "test": {"episodes": 7, "shard": 3},
        "budget": {"steps": 2},
        "execution": {"type": "inline"},
        "numerics": {"compile": "never"},
        "tracking": {"mlflow": False, "report": False},
        "seed": 5,
    }
    outcome = run(resolve(experiment), root=tmp_path)
    assert outcome.results is not None
    measured = ms.evaluate(outcome.directory.path, episodes=7, seed=5)
    assert {name: measured[name] for name in FIGURES} == {name: outcome.results["test"][name] for name in FIGURES}
    assert (measured["split"], measured["inner_steps"], measured["outputs"]) == ("test", 3, 1)
    assert ms.evaluate(outcome.directory.path, episodes=7, seed=6)["L"] != measured["L"]


def test_inner_steps_lower_the_loss_that_is_measured(sine: Path) -> None:
    before, after = (ms.evaluate(sine, episodes=20, steps=steps) for steps in (0, 5))
    assert (before["inner_steps"], after["inner_steps"]) == (0, 5)
    assert after["L"] < before["L"]


def test_several_numbers_of_steps_are_what_each_one_gives(sine: Path) -> None:
    found = evaluate_steps(sine, [0, 4], episodes=8, shard=4, baselines=["random", {"pretrained": {"steps": 2}}])
    assert list(found) == ["phi", "random", "pretrained"]
    for steps, row in found["phi"].items():
        alone = ms.evaluate(sine, episodes=8, shard=4, steps=steps)
        assert {name: row[name] for name in FIGURES} == {name: alone[name] for name in FIGURES}
        assert (row["inner_steps"], row["split"]) == (steps, "test")
    assert found["random"][4]["L"] != found["random"][0]["L"]
    assert found["pretrained"][4]["episodes"] == 8


def test_a_baseline_that_chooses_its_rate_does_so_for_each_number_of_steps(sine: Path) -> None:
    tuned = {"random": {"rates": [0.001, 0.01, 0.1], "episodes": 20}}
    found = evaluate_steps(sine, [1, 10], episodes=40, baselines=[tuned])["random"]
    fixed = evaluate_steps(sine, [1, 10], episodes=40, baselines=["random"])["random"]
    for steps in (1, 10):
        assert found[steps]["L"] <= fixed[steps]["L"] * 1.05
    assert found[10]["L"] < found[1]["L"]


def test_a_baseline_is_trained_once_for_all_numbers_of_steps(sine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    real = Pretrained.start
    monkeypatch.setattr(Pretrained, "start", lambda self, seed: (trained.append(seed), real(self, seed))[1])
    tuned = {"pretrained": {"steps": 2, "rates": [0.001, 0.1], "episodes": 4}}
    found = evaluate_steps(sine, [1, 3], episodes=8, shard=4, baselines=[tuned])["pretrained"]
    assert len(trained) == 1
    for steps, row in found.items():
        alone = evaluate_steps(sine, [steps], episodes=8, shard=4, baselines=[tuned])["pretrained"][steps]
        assert {name: row[name] for name in FIGURES} == {name: alone[name] for name in FIGURES}


def test_a_hand_made_optimizer_has_its_best_rate_for_each_number_of_steps(sine: Path) -> None:
    tuned = {"adam": {"rates": [0.001, 0.3], "episodes": 4, "shard": 4}}
    both = evaluate_steps(sine, [1, 8], episodes=8, shard=4, baselines=[tuned])["adam"]
    turned = evaluate_steps(sine, [8, 1], episodes=8, shard=4, baselines=[tuned])["adam"]
    assert {steps: row["L"] for steps, row in both.items()} == {steps: turned[steps]["L"] for steps in both}


def test_a_baseline_without_inner_steps_is_the_same_after_any(tmp_path: Path) -> None:
    phi = stored_phi(tmp_path / "phi")
    found = evaluate_steps(phi, [0, 2], tasks=few_shot(), episodes=6, shard=3, baselines=["nearest_neighbour"])
    first, second = found["nearest_neighbour"].values()
    assert first["accuracy"] == second["accuracy"]
    assert set(found["phi"]) == {0, 2}


@pytest.mark.parametrize(
    "changes", [{"amplitude": [0.0, 0.0]}, ["amplitude=[0.0, 0.0]"], ["tasks.amplitude=[0.0, 0.0]"]]
)
def test_overrides_change_the_tasks_of_the_search(sine: Path, changes: Any) -> None:
    flat = ms.evaluate(sine, tasks=changes, episodes=4)["L"]
    assert flat == ms.evaluate(sine, tasks={**SINUSOID, "amplitude": [0.0, 0.0]}, episodes=4)["L"]
    assert flat < ms.evaluate(sine, episodes=4)["L"]


@pytest.mark.parametrize("text", ["tasks: {type: sinusoid, shots: 9}\n", "type: sinusoid\nshots: 9\n"])
def test_tasks_come_from_a_file(sine: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "other.yaml").write_text(text)
    expected = ms.evaluate(sine, tasks={"type": "sinusoid", "shots": 9}, episodes=4)["L"]
    assert ms.evaluate(sine, tasks=tmp_path / "other.yaml", episodes=4)["L"] == expected
    (tmp_path / "empty.yaml").write_text("name: nothing\n")
    with pytest.raises(ConfigError, match="has no such block"):
        ms.evaluate(sine, tasks=tmp_path / "empty.yaml")


def test_tasks_that_were_objects_must_be_given_again(tmp_path: Path) -> None:
    phi = load(stored_phi(tmp_path / "phi", config={"tasks": {"object": "metasearch.tasks.base:FewShot"}}))
    with pytest.raises(ArtifactError, match=r"cannot describe.*tasks=\.\.\."):
        ms.evaluate(phi, episodes=4)
    measured = ms.evaluate(phi, tasks=few_shot(), episodes=4)
    assert 0 <= measured["accuracy"] <= 1
    assert set(measured) == {
        *FIGURES,
        "accuracy",
        "accuracy_ci95",
        "seconds",
        "split",
        "seed",
        "outputs",
        "inner_steps",
    }


def test_another_number_of_classes_is_measured_from_a_head_of_zeros(tmp_path: Path) -> None:
    phi = stored_phi(tmp_path / "phi")
    measured = ms.evaluate(phi, tasks=few_shot(5), episodes=4, steps=0)
    assert measured["L"] == pytest.approx(np.log(5), rel=1e-6)
    assert measured["outputs"] == 5


class Absolute:
    """Sinusoids judged by the absolute error."""

    def __init__(self) -> None:
        self._tasks = Sinusoid(Sinusoid.Config(shots=5, queries=5))

    def spec(self, split: str) -> TaskSpec:
        return dataclasses.replace(self._tasks.spec(split), kind="robust", loss=lambda a, b: (a - b).abs().mean(-1))

    def sample(self, split: str, seeds: NDArray[np.int64]) -> ms.Task:
        return self._tasks.sample(split, seeds)


def test_tasks_bring_the_loss_that_a_manifest_does_not_hold(tmp_path: Path) -> None:
    phi = stored_phi(tmp_path / "phi", learner=SLOW, spec=Absolute().spec("train"))
    absolute = ms.evaluate(phi, tasks=Absolute(), episodes=4, steps=0)["L"]
    line = stored_phi(tmp_path / "line", learner=SLOW, spec=LINE)
    squared = ms.evaluate(line, tasks=SINUSOID, episodes=4, steps=0)["L"]
    assert 0 < absolute < squared


def test_tasks_of_another_kind_or_size_are_refused(tmp_path: Path) -> None:
    phi = stored_phi(tmp_path / "phi")
    with pytest.raises(
        ArtifactError, match=r"classification of inputs \[4\], these tasks are regression of inputs \[1\]"
    ):
        ms.evaluate(phi, tasks=SINUSOID)
    with pytest.raises(ConfigError, match="no split 'nosuch'"):
        ms.evaluate(phi, tasks=few_shot(), split="nosuch")


def test_code_of_a_user_is_imported_only_with_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_tasks.py").write_text(
        "from metasearch.tasks.sinusoid import Sinusoid\nclass Theirs(Sinusoid): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    phi = stored_phi(tmp_path / "phi", learner=SLOW, spec=LINE, config={"tasks": {"type": "their_tasks:Theirs"}})
    with pytest.raises(ArtifactError, match="their_tasks:Theirs"):
        ms.evaluate(phi, episodes=2)
    assert ms.evaluate(phi, episodes=2, allow_user_code=True)["episodes"] == 2


def test_a_stored_phi_is_measured_in_other_ways_of_predicting(tmp_path: Path) -> None:
    phi = stored_phi(tmp_path / "phi")
    together, both, nil = (
        ms.evaluate(phi, tasks=few_shot(3), episodes=4, predict=one) for one in (None, "both", "nil")
    )
    assert both["accuracy"] == together["accuracy"]
    assert both["accuracy_alone"] == together["accuracy"]  # without batch norm it makes no difference
    assert "accuracy" not in nil
    assert 0 <= nil["accuracy_nil"] <= 1


class Listed(Sinusoid):
    """Test tasks are a list of seven."""

    def __init__(self) -> None:
        super().__init__(Sinusoid.Config(shots=5, queries=5))
        self.seen: list[int] = []

    def n_tasks(self, split: str) -> int | None:
        return 7 if split == "test" else None

    def sample(self, split: str, seeds: NDArray[np.int64]) -> Any:
        self.seen += seeds.tolist()
        return super().sample(split, seeds)


def test_each_task_of_a_list_is_measured_once(sine: Path) -> None:
    tasks = Listed()
    assert ms.evaluate(sine, tasks=tasks, episodes=7, shard=3)["episodes"] == 7
    assert tasks.seen == list(range(7))
    with pytest.raises(ConfigError, match=r"test\.episodes: split 'test' has 7 tasks, each taken once; got 600"):
        ms.evaluate(sine, tasks=tasks)
