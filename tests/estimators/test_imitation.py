"""Imitation of a hand-made optimizer: closed forms, finite differences, and a rule that learns to train."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metasearch import artifacts
from metasearch.core.errors import ConfigError, MetasearchError, UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Phi
from metasearch.estimators.episodes import Problem
from metasearch.estimators.imitation import _relative
from metasearch.groups import run_group
from metasearch.program import ExperimentProgram, build_program
from metasearch.resolution import resolve
from metasearch.testing.phi import stored_phi

LSTM = {"type": "lstm", "hidden": 4, "p": 10.0, "gain": 10.0, "centre": 0.1, "forget": 2.0, "scale": 0.1}
NESTEROV = {"type": "learned_momentum", "momentum": 0.9, "nesterov": True, "rate": 0.1}


def problem(rule: dict[str, Any], steps: int = 8, **settings: Any) -> Problem:
    tasks = build("task", {"type": "sinusoid", "shots": 10}, "tasks", device="cpu", dtype=torch.float64)
    learner = {
        "type": "inner_loop",
        "model": {"type": "mlp", "hidden": [6], "activation": "tanh"},
        "steps": steps,
        "slots": {"initialization": {"type": "random"}, "update_rule": rule},
        **settings,
    }
    made = build("learner", learner, "learner", spec=tasks.spec("train"))
    return Problem(tasks, lambda choices, split: made, dtype=torch.float64)


def estimator(case: Problem, teacher: dict[str, Any], **settings: Any) -> Any:
    block = {"type": "imitation", "teacher": teacher, "tasks": 4, "shard": 4, **settings}
    return build("estimator", block, "evaluation.estimator", problem=case)


def start(case: Problem, seed: int = 0) -> Phi:
    return case.phi(case.learner({}, "train").init(seed))


def measured(made: Any, phi: Phi, seed: int = 5) -> Any:
    return made.combine([made.measure(call) for call in made.calls(0, phi, None, seed)])[0]


@pytest.mark.parametrize("coordinates", [None, 2])
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_between_two_gradient_descents_the_distance_is_that_of_their_rates(
    rate: float, coordinates: int | None
) -> None:
    case = problem({"type": "learned_momentum", "momentum": 0.0, "rate": rate}, steps=1)
    teacher = {"type": "learned_momentum", "momentum": 0.0, "rate": 0.1}
    found = measured(estimator(case, teacher, coordinates=coordinates), start(case))
    np.testing.assert_allclose(found.per_task, abs(rate / 0.1 - 1), rtol=1e-6)  # phi has the logarithm in float32
    assert found.objective == found.value
    slope = float(found.gradient["update_rule.log_rate"])
    assert slope == pytest.approx(np.sign(rate - 0.1) * rate / 0.1, rel=1e-6)


def test_short_moves_count_as_a_part_of_the_usual_length() -> None:
    size = torch.tensor([[[3.0, 0.0]], [[4.0, 0.0]], [[0.1, 0.0]]])  # three steps of one task; one tensor never moves
    usual = float(size[:, 0, 0].square().mean().sqrt())
    found = _relative(0.5 * size + torch.tensor([0.0, 7.0]), size)
    expected = 0.5 * (1 + 1 + 0.1 / (0.3 * usual)) / 3 / 2
    assert found.tolist() == [pytest.approx(expected, rel=1e-6)]


def test_the_teacher_itself_is_at_no_distance() -> None:
    case = problem(NESTEROV)
    found = measured(estimator(case, NESTEROV), start(case))
    np.testing.assert_allclose(found.per_task, 0.0, atol=1e-12)
    assert all(bool(torch.isfinite(one).all()) for one in found.gradient.values())


@pytest.mark.parametrize("along", ["query", "support"])
def test_the_gradient_is_that_of_finite_differences(along: str) -> None:
    case = problem(LSTM, along=along, batch=5)
    made, phi = estimator(case, NESTEROV, coordinates=None), start(case)
    gradient = measured(made, phi).gradient
    assert set(gradient) == set(phi.tensors)
    generator = torch.Generator().manual_seed(1)
    way = {k: torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in phi.tensors.items()}

    def at(eps: float) -> float:
        moved = {name: value + eps * way[name] for name, value in phi.tensors.items()}
        return float(measured(made, phi.replace(tensors=moved)).value)

    expected = (at(1e-6) - at(-1e-6)) / 2e-6
    assert sum(float((gradient[name] * way[name]).sum()) for name in way) == pytest.approx(expected, rel=1e-6)


def test_slots_besides_the_rule_are_left_alone() -> None:
    case = problem(LSTM, steps=3, slots={"initialization": {"type": "tensors"}, "update_rule": LSTM})
    phi = start(case)
    gradient = measured(estimator(case, NESTEROV), phi).gradient
    moved = {name.split(".")[0] for name, value in gradient.items() if value.any()}
    assert moved == {"update_rule"}
    assert set(gradient) == set(phi.tensors)


def test_shards_add_up() -> None:
    case = problem(LSTM)
    phi = start(case)
    whole = measured(estimator(case, NESTEROV, coordinates=3), phi)
    parts = measured(estimator(case, NESTEROV, coordinates=3, shard=1), phi)
    np.testing.assert_allclose(whole.per_task, parts.per_task, rtol=1e-10)
    for name, value in whole.gradient.items():
        torch.testing.assert_close(value, parts.gradient[name], rtol=1e-8, atol=1e-12)


def test_a_rule_that_imitates_learns_to_train() -> None:
    case = problem(LSTM, steps=20)
    made, phi = estimator(case, NESTEROV), start(case)
    learner = case.learner({}, "train")
    task = case.sample("validation", list(range(16)))

    def left(point: Phi) -> float:
        with torch.no_grad():
            return float(learner.evaluate(point, task, 3, train=False, create_graph=False).query.mean())

    before, tensors = left(phi), {name: value.clone().requires_grad_() for name, value in phi.tensors.items()}
    adam = torch.optim.Adam(tensors.values(), lr=3e-2)
    distances = []
    for step in range(200):
        found = measured(made, phi.replace(tensors={k: v.detach() for k, v in tensors.items()}), seed=step)
        distances.append(found.value)
        for name, value in tensors.items():
            value.grad = found.gradient[name]
        adam.step()
    taught = learner.with_rule(NESTEROV)
    with torch.no_grad():
        teacher = taught.evaluate(case.phi(taught.init(0)), task, 3, train=False, create_graph=False)
    after, by_teacher = left(phi.replace(tensors=tensors)), float(teacher.query.mean())
    assert np.mean(distances[:5]) > 0.8
    assert np.mean(distances[-5:]) < 0.5
    assert before - after > 0.5 * (before - by_teacher) > 0


@pytest.mark.parametrize(
    ("rule", "teacher", "kind", "says"),
    [
        ({"type": "sgd"}, NESTEROV, UnsupportedError, "update rule that is learned"),
        ({"type": "mlp"}, NESTEROV, UnsupportedError, "coordinates: must be null"),
        (LSTM, {"type": "sgd"}, ConfigError, "teacher: must be a rule of its own"),
        (LSTM, {"type": "learned_momentum", "rat": 1}, ConfigError, "evaluation.estimator.teacher.*rat"),
        (LSTM, {"type": "learned_momentum", "rate": "fast"}, ConfigError, "evaluation.estimator.teacher.*rate"),
        (LSTM, {"from": "a phi"}, ConfigError, "in an experiment that says"),
        (LSTM, {"type": "nesterov"}, ConfigError, "evaluation.estimator.teacher.*nesterov"),
    ],
)
def test_what_cannot_be_imitated_is_refused(
    rule: dict[str, Any], teacher: dict[str, Any], kind: type[MetasearchError], says: str
) -> None:
    case = problem(rule)
    made = estimator(case, teacher)
    with pytest.raises(kind, match=says):
        made.check(case.learner({}, "train"), start(case))


@pytest.mark.parametrize("learned", [{"log_rate": "a"}, {"log_rate": [[1.0], [1.0, 2.0]]}, {"log_rate": None}])
def test_what_a_teacher_learned_is_numbers(learned: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected numbers or lists of numbers"):
        estimator(problem(LSTM), NESTEROV, learned=learned)


def test_without_a_step_there_is_nothing_to_imitate() -> None:
    case = problem(LSTM, steps=0)
    with pytest.raises(UnsupportedError, match="at least one inner step"):
        estimator(case, NESTEROV).check(case.learner({}, "train"), start(case))


def learned_phi(folder: Path, rule: dict[str, Any], hidden: Sequence[int] = (6,)) -> Path:
    """A phi with a rule that has learned: half a unit away from its start, all numbers different."""
    tasks = build("task", {"type": "sinusoid", "shots": 10}, "tasks", device="cpu", dtype=torch.float64)
    model = {"type": "mlp", "hidden": list(hidden), "activation": "tanh"}
    slots = {"initialization": {"type": "random"}, "update_rule": rule}
    block = {"type": "inner_loop", "model": model, "steps": 5, "slots": slots}
    stored_phi(folder / "fresh", learner=block, spec=tasks.spec("train"))
    fresh = artifacts.load(folder / "fresh")
    tensors = {name: value + 0.5 + 0.01 * index for index, (name, value) in enumerate(fresh.phi.tensors.items())}
    said = {"learner": {**block, "slots": {**slots, "update_rule": {**rule, "searcher": "gradient"}}}}
    manifest = fresh.manifest.model_copy(update={"config": said})
    artifacts.save(folder / "learned", fresh.phi.replace(tensors=tensors), manifest)
    return folder / "learned"


def experiment(teacher: dict[str, Any], rule: dict[str, Any] = LSTM) -> dict[str, Any]:
    return {
        "tasks": {"type": "sinusoid", "shots": 10},
        "learner": {
            "type": "inner_loop",
            "model": {"type": "mlp", "hidden": [6], "activation": "tanh"},
            "steps": 5,
            "slots": {"initialization": {"type": "random"}, "update_rule": rule},
        },
        "searcher": {"type": "gradient"},
        "evaluation": {
            "type": "episodes",
            "estimator": {"type": "imitation", "teacher": teacher, "coordinates": None},
            "tasks": 2,
            "shard": 2,
        },
        "budget": {"steps": 2},
        "execution": {"type": "inline"},
        "numerics": {"dtype": "float64", "compile": "never"},
        "tracking": {"mlflow": False, "report": False},
    }


@pytest.mark.parametrize(
    "rule",
    [
        {"type": "learned_padam", "constants": "tensor", "rate": 0.05, "knots": [0, 3]},
        {"type": "learned_momentum"},
    ],
)
def test_a_teacher_from_a_phi_has_learned_what_lies_there(rule: dict[str, Any], tmp_path: Path) -> None:
    place = learned_phi(tmp_path, rule)
    made = resolve(experiment({"from": str(place)}, rule)).program
    phi = made.learner({}, "train").init(0)

    def distance(tensors: dict[str, torch.Tensor]) -> float:
        train = made.function("train")
        return float(measured(train, made.problem.phi(phi.replace(tensors=tensors))).value)

    assert distance(dict(artifacts.load(place).phi.tensors)) == pytest.approx(0.0, abs=1e-9)
    assert distance(dict(phi.tensors)) > 0.1


def of_worker(worker: ExperimentProgram) -> float:
    phi = worker.problem.phi(worker.learner({}).init(0))
    return float(measured(worker.function("train"), phi).value)


def test_workers_get_what_a_teacher_has_learned_and_the_record_where_it_lies(tmp_path: Path) -> None:
    place = learned_phi(tmp_path, NESTEROV)
    found = resolve(experiment({"from": "learned"}), tmp_path)
    kept = {"from": str(place), "hash": artifacts.load(place).manifest.hash}
    assert found.tree["evaluation"]["estimator"]["teacher"] == kept
    expected, without = of_worker(found.program), of_worker(resolve(experiment(NESTEROV)).program)
    shutil.rmtree(place)
    assert of_worker(build_program(pickle.loads(pickle.dumps(found.blueprint)))) == expected
    assert abs(expected - without) > 1e-3


def test_another_phi_in_the_teacher_s_place_is_told_from_it(tmp_path: Path) -> None:
    place = learned_phi(tmp_path, NESTEROV)
    found = resolve(experiment({"from": "learned"}), tmp_path)
    assert resolve(found.tree).tree == found.tree
    shutil.rmtree(place)
    stored = artifacts.load(tmp_path / "fresh")
    artifacts.save(place, stored.phi, stored.manifest)
    with pytest.raises(ConfigError, match="not the one of the record"):
        resolve(found.tree)


def test_a_teacher_acts_by_what_was_chosen_for_it(tmp_path: Path) -> None:
    place, ranged = learned_phi(tmp_path, LSTM), {**LSTM, "scale": {"float": [0.01, 10.0], "log": True}}
    stored = artifacts.load(place)
    learner = stored.manifest.config["learner"]
    said = {"learner": {**learner, "slots": {**learner["slots"], "update_rule": ranged}}}
    manifest, choice = stored.manifest.model_copy(update={"config": said}), {"learner.slots.update_rule.scale": 0.5}
    artifacts.save(tmp_path / "chosen", stored.phi.replace(choices=choice), manifest)
    found = resolve(experiment({"from": "chosen"}), tmp_path)
    assert found.program.file.evaluation["estimator"]["teacher"]["scale"] == 0.5
    either = {"choice": [ranged, {"type": "learned_momentum", "rate": {"float": [0.1, 1.0]}}]}
    said = {"learner": {**learner, "slots": {**learner["slots"], "update_rule": either}}}
    first = {"learner.slots.update_rule": "lstm", "learner.slots.update_rule.scale": 0.25}
    artifacts.save(tmp_path / "either", stored.phi.replace(choices=first), manifest.model_copy(update={"config": said}))
    found = resolve(experiment({"from": "either"}), tmp_path)
    assert found.program.file.evaluation["estimator"]["teacher"] == {**LSTM, "scale": 0.25}
    artifacts.save(tmp_path / "open", stored.phi, manifest)
    with pytest.raises(ConfigError, match="does not say what was chosen for"):
        resolve(experiment({"from": "open"}), tmp_path)


def test_a_manifest_s_word_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strange.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    place = learned_phi(tmp_path, NESTEROV)
    manifest = place / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"learned_momentum"', '"strange:Rule"'))
    with pytest.raises(ConfigError, match="strange:Rule"):
        resolve(experiment({"from": str(place)}))
    with pytest.raises(ConfigError, match="strange:Rule"):
        resolve(experiment(NESTEROV, {**NESTEROV, "from": str(place)}))


def test_all_runs_of_a_group_have_the_teacher_that_the_first_one_had(tmp_path: Path) -> None:
    place = learned_phi(tmp_path, NESTEROV)
    group = run_group({**experiment({"from": "learned"}), "seeds": [0, 1]}, folder=tmp_path, root=tmp_path / "runs")
    record = json.loads((group.path / "group.json").read_text())
    kept = {"from": str(place), "hash": artifacts.load(place).manifest.hash}
    assert [one["evaluation"]["estimator"]["teacher"] for one in record["members"].values()] == [kept, kept]


def test_other_estimators_may_have_a_teacher_of_their_own() -> None:
    tree = experiment({"from": "nowhere"})
    tree["evaluation"]["estimator"]["type"] = "backprop"
    with pytest.raises(ConfigError, match="unknown key"):
        resolve(tree)


def test_a_rule_that_comes_with_the_package_can_teach() -> None:
    found = resolve(experiment({"from": "lstm-v1"})).program
    assert 0 < measured(found.function("train"), found.problem.phi(found.learner({}).init(0))).value < 10


@pytest.mark.parametrize(
    ("teacher", "says"),
    [
        ({"from": "nowhere"}, "evaluation.estimator.teacher.from: expected weights at"),
        ({"from": "learned", "rate": 1.0}, "got rate beside it"),
        ({"from": "none/fresh"}, "expected a phi with an update rule that a gradient learned"),
        ({"from": "other/learned"}, "was learned for another network"),
    ],
)
def test_a_phi_that_cannot_teach_is_refused(teacher: dict[str, Any], says: str, tmp_path: Path) -> None:
    for_each = {**NESTEROV, "constants": "tensor"}
    learned_phi(tmp_path, for_each)
    (tmp_path / "none").mkdir()
    stored_phi(tmp_path / "none" / "fresh")
    (tmp_path / "other").mkdir()
    learned_phi(tmp_path / "other", for_each, hidden=(6, 6))
    with pytest.raises(MetasearchError, match=says):
        resolve(experiment(teacher), tmp_path)
