"""From a file to a checked experiment: ranges, owners, recipes, and clear refusals before anything starts."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from metasearch.core.errors import ConfigError, DataError, UnsupportedError
from metasearch.core.space import Choice, Float, Int
from metasearch.resolution import load, resolve
from metasearch.trees import override, read, recorded

PARTS = Path(__file__).parent / "parts"
EXPERIMENTS = Path(__file__).parents[2] / "experiments"

FIRST = """
name: first
imports: [planned]
tasks: {type: omniglot, split: vinyals, ways: 5, shots: 1}
budget: {steps: 10}
"""
META_SGD = """
learner:
  recipe: meta_sgd
  model: {type: conv4}
  slots:
    initialization: {type: tensors, searcher: weights}
    learning_rates: {type: per_parameter, init: 0.4, searcher: rates}
searchers:  {weights: {type: gradient, lr: 1.0e-3}, rates: {type: gradient, lr: 1.0e-4, clip: 10}}
"""
AUGMENTATION = """
searchers:  {controller: {type: policy, algorithm: reinforce, in_flight: 8}}
evaluation:
  type: training
  data: {type: omniglot, classes: 50, train: 5, validation: 5, test: 10}
  model: {type: conv4, norm: running, head: flatten}
  augmentation: {type: sub_policies, count: 5, places: 2, operations: strokes}
  epochs: 27
scheduler:  {type: asha, grace: 3, reduction: 3}
"""
NESTED = """
searcher:   {type: optuna, sampler: tpe, in_flight: 2}
evaluation:
  type: search
  report: validation/L
  search:
    from: omniglot_maml.yaml
    set:
      learner.steps.train: {int: [1, 5]}
      learner.slots.learning_rates.value: {float: [0.01, 1], log: true}
scheduler:  {type: asha, metric: validation/L, grace: 2}
budget:     {evaluations: 40}
"""
JOINT = """
learner:
  type: inner_loop
  model: {type: supernet}
  slots:
    architecture: {type: one_path, searcher: controller}
    initialization: {type: shared_tensors, searcher: weights}
searchers:
  controller: {type: policy, algorithm: reinforce, reward_split: validation}
  weights: {type: gradient, lr: 1.0e-3}
compose:    {type: joint, proposals_per_step: 4}
test:       {derive: {sample: 50}}
evaluation: {type: episodes, estimator: backprop}
"""


def sketch(text: str, **more: Any) -> dict[str, Any]:
    return {**yaml.safe_load(FIRST), **yaml.safe_load(text), **more}


def test_initialization_and_rates_under_two_gradient_searchers() -> None:
    experiment = resolve(sketch(META_SGD), PARTS)
    assert experiment.slot_owners == {"initialization": "weights", "learning_rates": "rates"}
    assert not experiment.space


def test_augmentation_by_a_policy_with_training_runs_on_asha() -> None:
    tree = {key: value for key, value in sketch(AUGMENTATION).items() if key != "tasks"}
    experiment = resolve(tree, PARTS)
    assert experiment.trials
    assert len(experiment.space) >= 5 * 2 * 2  # an operation and a probability, and a level where it has one
    assert set(experiment.owners.values()) == {"controller"}


def test_a_search_over_the_settings_of_a_search() -> None:
    tree = {key: value for key, value in sketch(NESTED).items() if key != "tasks"}
    experiment = resolve(tree, EXPERIMENTS)
    kinds = {
        name.removeprefix("evaluation.search.set."): type(one) for name, one in experiment.space.dimensions.items()
    }
    assert kinds == {"learner.steps.train": Int, "learner.slots.learning_rates.value": Float}


def test_architecture_by_a_policy_and_weights_by_gradient() -> None:
    tasks = {"type": "sinusoid", "shots": 5, "queries": 5}
    experiment = resolve(sketch(JOINT, tasks=tasks, imports=["probes", "planned"]), PARTS)
    assert experiment.owners == dict.fromkeys(
        ("learner.slots.architecture.layer0", "learner.slots.architecture.layer1"), "controller"
    )
    assert experiment.slot_owners == {"initialization": "weights"}
    assert all(isinstance(one, Choice) for one in experiment.space.dimensions.values())


@pytest.mark.parametrize("file", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_experiment_of_the_repository_checks_and_survives_yaml(file: Path) -> None:
    try:
        experiment = load(file)
    except DataError as error:  # a data set that is neither in the package nor in METASEARCH_DATA
        pytest.skip(str(error))
    again = resolve(yaml.safe_load(yaml.safe_dump(recorded(experiment.tree))), file.parent)
    assert recorded(again.tree) == recorded(experiment.tree)


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        ({"tasks.typ": "omniglot"}, "tasks.typ", "unknown key"),
        ({"tasks.type": "omniglott"}, "tasks.type", "did you mean 'omniglot'"),
        ({"tasks.ways": 500}, "tasks.ways", "500"),
        ({"tasks.shots": 10, "tasks.queries": 15}, "tasks", "20"),
        ({"tasks.split": "vinyls"}, "tasks.split", "vinyals"),
        ({"learner.recipe": "mamal"}, "learner.recipe", "did you mean 'maml'"),
        ({"learner.model.type": "conv5"}, "learner.model.type", "did you mean 'conv4'"),
        ({"learner.model.filter": 3}, "learner.model.filter", "did you mean 'filters'"),
        ({"learner.slots.learning_rates.value": -1}, "learner.slots.learning_rates.value", "greater than 0"),
        ({"learner.slots.learning_rates.typo": 1}, "learner.slots.learning_rates.typo", "unknown key"),
        ({"learner.slots.optimizer": {"type": "sgd"}}, "learner.slots.optimizer.type", "unknown slot.optimizer"),
        ({"searcher.lr": "fast"}, "searchers.searcher.lr", "fast"),
        ({"searcher.type": "gradient_descent"}, "searchers.searcher.type", "did you mean 'gradient'"),
        ({"evaluation.estimator": "value"}, "evaluation.estimator", "gives no gradient"),
        ({"evaluation.estimator": "backprob"}, "evaluation.type", "did you mean 'backprop'"),
        ({"execution.workers": 0}, "execution.workers", "greater than 0"),
        ({"execution.gpus_per_worker": 1}, "execution.gpus_per_worker", "no"),
        ({"validation.split": "valid"}, "validation.split", "validation"),
        ({"test.baselines": ["rando"]}, "test.baselines", "did you mean 'random'"),
        ({"budget": {}}, "budget", "at least one"),
        ({"budgets.steps": 3}, "budgets", "did you mean 'budget'"),
        ({"learner.adapt": ["heads*"]}, "learner.adapt", "no parameter matches"),
        ({"learner.steps.train": {"int": [1, 3]}}, "learner.steps.train", "no searcher takes choices"),
        ({"imports": ["no_such_module"]}, "imports", "no_such_module"),
        ({"tasks.type": "nowhere:Tasks"}, "tasks.type", "nowhere"),
        ({"scheduler": {"type": "asha"}}, "scheduler", "training runs"),
    ],
)
def test_a_mistake_gives_one_message_with_the_path_of_its_key(change: dict[str, Any], path: str, says: str) -> None:
    tree = override(read(EXPERIMENTS / "omniglot_maml.yaml"), change)
    with pytest.raises(ConfigError) as caught:
        resolve(tree)
    assert caught.value.path.startswith(path), f"{caught.value.path}: {caught.value.problem}"
    assert says in str(caught.value)


def test_a_range_that_two_searchers_could_own_must_name_one() -> None:
    tree = sketch(META_SGD)
    tree["learner"]["steps"] = {"train": {"int": [1, 3]}, "test": 3}
    tree["searchers"] = {"a": {"type": "policy"}, "b": {"type": "random"}, **tree["searchers"]}
    with pytest.raises(ConfigError, match="must name its searcher"):
        resolve(tree, PARTS)


def test_overrides_reach_nested_keys_and_read_values_as_yaml() -> None:
    tree = override({"a": {"b": 1}, "c": [1]}, ["a.b=2e-3", "a.d.e=[1, 2]", "c=text"])
    assert tree == {"a": {"b": 0.002, "d": {"e": [1, 2]}}, "c": "text"}
    with pytest.raises(ConfigError, match="key=value"):
        override({}, ["a.b"])


def test_the_recipe_gives_way_to_what_the_file_says() -> None:
    experiment = load(
        EXPERIMENTS / "omniglot_maml.yaml", {"learner.slots.learning_rates": {"type": "shared", "init": 0.2}}
    )
    assert experiment.tree["learner"]["slots"]["learning_rates"] == {"type": "shared", "init": 0.2}
    assert experiment.tree["learner"]["slots"]["update_rule"] == {"type": "sgd"}


def test_a_joint_search_refuses_a_searcher_that_assumes_a_fixed_objective() -> None:
    tasks = {"type": "sinusoid", "shots": 5, "queries": 5}
    tree = sketch(JOINT, tasks=tasks, imports=["probes", "planned"])
    tree["searchers"]["controller"] = {"type": "optuna"}
    with pytest.raises(UnsupportedError, match="nest"):
        resolve(tree, PARTS)


X = {"x": {"float": [0, 1]}}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"objectives": {"a": "L"}}, "objectives"),
        ({"test.derive": {"sample": 3}}, "test.derive"),
        ({"test.retrain": {"best": 1}}, "test.retrain"),
        (
            {"evaluation": {"type": "objective", "function": "math:sqrt", "config": X}, "searcher": {"type": "random"}},
            "test",
        ),
    ],
)
def test_a_setting_that_nothing_would_read_is_refused(change: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(override(read(EXPERIMENTS / "omniglot_maml.yaml"), change))
    assert caught.value.path.startswith(path)


def test_a_range_may_be_an_object_in_python() -> None:
    tree = {
        "searcher": {"type": "random"},
        "evaluation": {
            "type": "objective",
            "function": "math:sqrt",
            "config": {"x": Float(0.0, 1.0), "y": Choice(("a", "b"))},
        },
        "budget": {"evaluations": 1},
    }
    experiment = resolve(tree)
    assert {name.rpartition(".")[2]: type(one) for name, one in experiment.space.dimensions.items()} == {
        "x": Float,
        "y": Choice,
    }
    assert "'object'" not in str(recorded(experiment.tree))


def other_ways(tiny: dict[str, Any], **initialization: Any) -> dict[str, Any]:
    ways = {"train": 4, "test": 3}
    learner = {
        "recipe": "maml",
        "model": {"type": "conv4", "filters": 4, "blocks": 2},
        "slots": {"initialization": {"type": "tensors", **initialization}},
    }
    return {**tiny, "tasks": {"type": "omniglot", "ways": ways, "queries": 2}, "learner": learner}


def test_other_numbers_of_classes_at_test_are_refused_where_phi_depends_on_them(tiny: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match=r"4 outputs.*3.*head.* is \[4(, 4)?\] and \[3(, 4)?\].*zero"):
        resolve(other_ways(tiny))


def test_other_numbers_of_classes_at_test_with_a_head_from_zero(tiny: dict[str, Any], tmp_path: Path) -> None:
    import metasearch as ms

    tree = other_ways(tiny, zero=["head.*"])
    tree["test"]["baselines"] = ["random", "nearest_neighbour", {"pretrained": {"steps": 2}}]
    outcome = ms.run(tree, runs=tmp_path)
    assert outcome.results is not None
    accuracy = outcome.results["test"]["accuracy"]
    assert accuracy > 0.33
    learned = ms.load(outcome.phi_path)
    assert not any("head" in name for name in learned.initialization())
    report = learned.initialize(learned.network(6))
    assert report.zero == ("head.weight", "head.bias")
    assert not report.fresh
    again = ms.evaluate(learned, episodes=6, shard=3)
    assert again["accuracy"] == accuracy
