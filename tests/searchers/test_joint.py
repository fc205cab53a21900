from __future__ import annotations

import pytest
import torch

from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.registry import build
from metasearch.core.space import Choice, Int, Space
from metasearch.core.values import Estimate, Evaluation, Phi, Proposal
from metasearch.searchers.joint import Joint, compose
from metasearch.testing.searchers import Driver, example_phi, example_space


def parts():
    return {
        "weights": build("searcher", {"type": "gradient", "optimizer": "sgd", "lr": 0.1}),
        "controller": build("searcher", "policy"),
    }


def test_choices_and_gradients_are_told_from_one_evaluation():
    joint = compose(parts())
    driver = Driver(joint, example_space(), example_phi()).run(3, 2)
    assert all(example_space().contains(choices) for choices in driver.asked)
    torch.testing.assert_close(joint.phi().tensors["learning_rates.value"], torch.full((2,), 0.4 * 0.8**3))
    assert joint.phi().buffers["initialization.count"].item() == 3
    assert joint.searchers["controller"]._baseline is not None
    assert joint.needs_gradient
    assert not joint.stationary


def test_its_parts_do_what_they_would_do_alone():
    joint = Joint(parts())
    Driver(joint, example_space(), example_phi(), seed=2).run(10)
    weights = build("searcher", {"type": "gradient", "optimizer": "sgd", "lr": 0.1})
    Driver(weights, Space(), example_phi()).run(10)
    for name, tensor in weights.phi().tensors.items():
        assert torch.equal(tensor, joint.phi().tensors[name])


def test_slots_are_split_between_gradient_searchers():
    rates = build("searcher", {"type": "gradient", "optimizer": "sgd", "lr": 0.01})
    weights = build("searcher", {"type": "gradient", "optimizer": "sgd", "lr": 0.1})
    joint = compose({"weights": weights, "rates": rates}, {"initialization": "weights", "learning_rates": "rates"})
    joint.setup(example_phi(), Space(), 0)
    assert set(rates.phi().tensors) == {"learning_rates.value"}
    assert set(weights.phi().buffers) == {"initialization.mean", "initialization.count"}
    gradient = {name: torch.ones_like(tensor) for name, tensor in example_phi().tensors.items()}
    joint.tell([Evaluation(Proposal(0, 0), "ok", Estimate(1.0, 1.0, gradient=gradient))])
    moved = {name: example_phi().tensors[name] - tensor for name, tensor in joint.phi().tensors.items()}
    torch.testing.assert_close(moved["learning_rates.value"], torch.full((2,), 0.01))
    torch.testing.assert_close(moved["initialization.weight"], torch.full((3, 2), 0.1))


def test_dimensions_are_split_between_searchers_of_choices():
    space = Space({"a": Choice((1, 2)), "b": Int(0, 9)})
    one, two = build("searcher", "policy"), build("searcher", "random")
    joint = compose({"one": one, "two": two}, dimensions={"a": "one", "b": "two"})
    driver = Driver(joint, space, Phi()).run(5)
    assert all(space.contains(choices) for choices in driver.asked)
    assert set(one.probabilities()) == {"a"}
    assert not joint.needs_gradient


def test_a_single_searcher_is_itself():
    searcher = build("searcher", "optuna")
    assert compose({"only": searcher}) is searcher
    assert compose({"only": searcher}, {}, {"a": None, "b": "only"}) is searcher


def test_a_searcher_that_assumes_a_fixed_loss_is_refused_with_the_hint_to_nest():
    with pytest.raises(UnsupportedError, match="nest") as caught:
        compose({"tpe": build("searcher", "optuna"), "weights": build("searcher", "gradient")})
    assert caught.value.path == "searchers.tpe"


def test_two_searchers_with_one_seed_draw_differently():
    space = Space({"a": Int(0, 999), "b": Int(0, 999)})
    joint = compose(
        {"one": build("searcher", "random"), "two": build("searcher", "random")}, dimensions={"a": "one", "b": "two"}
    )
    asked = Driver(joint, space, Phi()).run(30).asked
    assert sum(choices["a"] == choices["b"] for choices in asked) < 3


@pytest.mark.parametrize(
    ("names", "slots", "dimensions", "problem"),
    [
        ("policy gradient", {"initialization": "gradientt"}, {}, "did you mean 'gradient'"),
        ("policy", {}, {"steps": "polisy"}, "did you mean 'policy'"),
        ("policy random gradient", {}, {}, "2 take choices"),
        ("policy random", {}, dict.fromkeys(example_space(), "policy"), "0 take gradients"),
        ("policy random gradient", {}, {**dict.fromkeys(example_space(), "random"), "rule": "policy"}, "one searcher"),
        ("", {}, {}, "at least one"),
    ],
)
def test_unclear_ownership_is_refused(names, slots, dimensions, problem):
    with pytest.raises(ConfigError, match=problem):
        compose({name: build("searcher", name) for name in names.split()}, slots, dimensions).setup(
            example_phi(), example_space(), 0
        )


def test_errors_of_a_part_are_named_by_its_searcher():
    with pytest.raises(ConfigError) as caught:
        compose(parts()).setup(example_phi(), Space(), 0)
    assert caught.value.path.startswith("searchers.controller")


def test_it_stands_at_the_likeliest_choices_and_draws_candidates_without_proposing_them():
    joint = Joint(parts())
    Driver(joint, example_space(), example_phi(), seed=1).run(3)
    assert example_space().contains(joint.phi().choices)
    found = joint.candidates(5, seed=4)
    assert found[0] == joint.phi().choices
    assert len(found) == 6
    assert all(example_space().contains(one) for one in found)
    assert found == joint.candidates(5, seed=4)
    other = Joint(parts())
    Driver(other, example_space(), example_phi(), seed=1).run(3)
    assert joint.ask(4) == other.ask(4)


def test_random_choices_have_no_likeliest_but_candidates():
    joint = Joint({**parts(), "controller": build("searcher", "random")})
    joint.setup(example_phi(), example_space(), 0)
    assert joint.phi().choices == {}
    assert len(joint.candidates(5, seed=4)) == 5
