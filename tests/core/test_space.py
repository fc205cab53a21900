from __future__ import annotations

import itertools
import json
import math
import pickle

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from metasearch.core.errors import ConfigError
from metasearch.core.space import Choice, Float, Hole, Int, Space, extract, substitute


@st.composite
def dimensions(draw, parents=()):
    """Any dimension, under conditions on some of ``parents`` (name, values)."""
    when = {name: draw(st.lists(st.sampled_from(values), min_size=1, unique=True)) for name, values in parents} or None
    kind = draw(st.sampled_from(["float", "log", "step", "int", "int log", "choice"]))
    low, width = draw(st.integers(1, 50)), draw(st.integers(0, 20))
    if kind == "float":
        return Float(-low / 8, width / 8, when=when)
    if kind == "log":
        return Float(low / 1000, (low + width) / 10, log=True, when=when)
    if kind == "step":
        return Float(low / 10, (low + width) / 10, step=0.3, when=when)
    if kind == "int":
        return Int(-low, width, step=draw(st.sampled_from([None, 1, 3])), when=when)
    if kind == "int log":
        return Int(low, low + width, log=True, when=when)
    return Choice(
        tuple(draw(st.lists(st.sampled_from(["a", "b", 0, 1.5, None, "c.d"]), min_size=1, unique=True))), when
    )


@st.composite
def spaces(draw):
    """Spaces of up to six dimensions; each may hang on a finite one before it."""
    found = {}
    for index in range(draw(st.integers(1, 6))):
        finite = [(name, dim.values()) for name, dim in found.items() if dim.count <= 30]
        parents = [draw(st.sampled_from(finite))] if finite and draw(st.booleans()) else []
        found[f"d{index}"] = draw(dimensions(parents=parents))
    return Space(found)


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 2**62))
def test_samples_lie_inside_and_are_the_same_for_the_same_seed(space, seed):
    choices = space.sample(seed)
    space.validate(choices)
    assert space.sample(seed) == choices
    assert json.loads(json.dumps(choices)) == choices


@settings(max_examples=60, deadline=None)
@given(dimensions(), st.floats(0, 1, exclude_max=True))
def test_the_place_of_a_number_in_its_prior_gives_it_back(dimension, u):
    if isinstance(dimension, Choice):
        return
    value = dimension.at(u)
    place = dimension.place(value)
    assert 0 <= place <= 1
    assert dimension.at(min(place, math.nextafter(1, 0))) == pytest.approx(value, rel=1e-9, abs=1e-12)
    if math.isinf(dimension.count):
        assert place == pytest.approx(u, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(spaces())
def test_a_space_survives_yaml_json_and_pickle(space):
    assert Space.from_yaml(yaml.safe_load(yaml.safe_dump(space.to_yaml()))) == space
    assert Space.from_yaml(json.loads(json.dumps(space.to_yaml()))) == space
    assert pickle.loads(pickle.dumps(space)) == space


@settings(max_examples=40, deadline=None)
@given(spaces(), st.integers(0, 2**62))
def test_a_further_dimension_changes_no_other(space, seed):
    more = Space({"new": Float(0, 1), **space.dimensions})
    choices = more.sample(seed)
    choices.pop("new")
    assert choices == space.sample(seed)


@settings(max_examples=40, deadline=None)
@given(spaces())
def test_size_counts_the_different_walks(space):
    if space.size > 2000:
        return

    def walks(names, chosen):
        if not names:
            return 1
        dimension = space.dimensions[names[0]]
        when = dimension.when or {}
        if not all(name in chosen and chosen[name] in values for name, values in when.items()):
            return walks(names[1:], chosen)
        return sum(walks(names[1:], {**chosen, names[0]: value}) for value in dimension.values())

    assert space.size == walks(list(space.dimensions), {})


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 2**62))
def test_ranges_in_a_tree_come_out_by_path_and_values_go_back_in(space, seed):
    flat = {name: {k: v for k, v in part.items() if k != "when"} for name, part in space.to_yaml().items()}
    tree = {
        "fixed": [1, {"x": None}],
        "learner": {"list": [flat["d0"], "y"], **{n: p for n, p in flat.items() if n != "d0"}},
    }
    template, found = extract(tree)
    assert set(found) == {"learner.list.0", *(f"learner.{name}" for name in flat if name != "d0")}
    choices = Space({name: dimension for name, (dimension, _) in found.items()}).sample(seed)
    filled = substitute(template, choices)
    assert filled == substitute(tree, choices)
    assert filled["fixed"] == tree["fixed"]
    assert filled["learner"]["list"] == [choices["learner.list.0"], "y"]
    for name in set(flat) - {"d0"}:
        assert filled["learner"][name] == choices[f"learner.{name}"]
    assert extract(filled) == (filled, {})


def test_conditions_nest_and_inactive_dimensions_are_left_out():
    space = Space(
        {
            "leaf": Float(0, 1, when={"child": ("y",)}),  # given before its parents
            "child": Choice(("x", "y"), when={"root": (True,)}),
            "root": Choice((True, False)),
        }
    )
    assert list(space) == ["root", "child", "leaf"]
    picks = {"root": True, "child": "y", "leaf": 0.5}
    assert space.walk(lambda name, _: picks[name]) == picks
    assert space.walk(lambda name, _: {**picks, "child": "x"}[name]) == {"root": True, "child": "x"}
    assert space.walk(lambda name, _: {**picks, "root": False}[name]) == {"root": False}
    assert space.size == math.inf
    assert space.subset(["root", "child"]).size == 3


def test_size_stays_cheap_with_many_parents():
    many = {f"op{i}": Choice(tuple("abcdefg")) for i in range(14)}
    many |= {f"m{i}": Int(1, 10**6, when={f"op{i}": ("a", "b")}) for i in range(14)}
    ordered = {key: many[key] for i in range(14) for key in (f"op{i}", f"m{i}")}
    assert Space(ordered).size == (5 + 2 * 10**6) ** 14


@pytest.mark.parametrize(
    ("choices", "path", "problem"),
    [
        ({}, "root", "no value"),
        ({"root": "c"}, "root", "not in"),
        ({"root": "a"}, "n", "no value"),
        ({"root": "a", "n": 9}, "n", "not in"),
        ({"root": "b", "n": 1}, "n", "exists only when"),
        ({"root": "b", "roto": 1}, "roto", "did you mean 'root'"),
    ],
)
def test_validate_names_the_dimension_that_is_wrong(choices, path, problem):
    space = Space({"root": Choice(("a", "b")), "n": Int(1, 3, when={"root": ("a",)})})
    with pytest.raises(ConfigError, match=problem) as caught:
        space.validate(choices)
    assert caught.value.path == path
    assert not space.contains(choices)


def test_true_is_not_one():
    assert Choice((True, 1)).contains(1) is True
    assert not Choice((True, False)).contains(1)
    assert not Int(0, 1).contains(True)
    space = Space({"flag": Choice((True, 0)), "n": Int(0, 1, when={"flag": (True,)})})
    assert space.walk(lambda name, _: {"flag": True, "n": 1}[name]) == {"flag": True, "n": 1}


def test_stepped_floats_are_the_numbers_as_written():
    assert Float(0.1, 0.75, step=0.1).values() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert Float(0, 0.3, step=0.1).count == 4
    assert Float(0, 1, step=0.1).contains(0.1 + 0.2)
    assert not Float(0, 1, step=0.1).contains(0.25)


def test_sampling_follows_the_prior():
    u = [(i + 0.5) / 1000 for i in range(1000)]
    logs = [Float(1e-4, 1.0, log=True).at(x) for x in u]
    assert sum(value < 1e-2 for value in logs) == 500
    counts = [sum(Int(1, 4).at(x) == k for x in u) for k in (1, 2, 3, 4)]
    assert counts == [250] * 4
    log_ints = [Int(1, 64, log=True).at(x) for x in u]
    assert (min(log_ints), max(log_ints)) == (1, 64)
    assert sum(value <= 8 for value in log_ints) > 550


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Float(1, 0), "low <= high"),
        (lambda: Float(0, math.inf), "finite"),
        (lambda: Float(0, 1, log=True), "above 0"),
        (lambda: Float(1, 2, log=True, step=0.1), "no step"),
        (lambda: Float(0, 1, step=-0.1), "positive"),
        (lambda: Int(0.5, 2), "whole numbers"),
        (lambda: Int(True, 2), "whole numbers"),
        (lambda: Choice(()), "at least one"),
        (lambda: Choice("abc"), "at least one"),
        (lambda: Choice(("a", "a")), "twice"),
        (lambda: Float(0, 1).values(), "step"),
        (lambda: Space({"a": Int(0, 1, when={"b": (1,)})}), "no dimension 'b'"),
        (lambda: Space({"a": Int(0, 1), "b": Int(0, 1, when={"a": (2,)})}), "not in"),
        (lambda: Space({"a": Int(0, 1, when={"b": (1,)}), "b": Int(0, 1, when={"a": (1,)})}), "circle"),
        (lambda: Space({"a": Int(0, 1), "b": Int(0, 1, when={"a": (1,)})}).subset(["b"]), "one searcher"),
        (lambda: Space({"a": Int(0, 1)}).subset(["c"]), "not a dimension"),
    ],
)
def test_impossible_dimensions_and_spaces_are_refused(make, problem):
    with pytest.raises(ConfigError, match=problem):
        make()


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ({"a": {"float": [0, 1], "lgo": True}}, "a.lgo"),
        ({"a": {"float": [0]}}, "a.float"),
        ({"a": {"float": ["x", 1]}}, "a.float"),
        ({"a": [{"int": [0, 1], "log": 1}]}, "a.0.log"),
        ({"a": {"choice": 3}}, "a"),
        ({"a": {"float": [0, 1], "int": [0, 1]}}, "a"),
        ({"a": {"choice": ["x"], "when": "b"}}, "a.when"),
        ({"a.b": {"int": [0, 1]}, "a": {"b": {"int": [0, 1]}}}, "a.b"),
    ],
)
def test_a_range_that_cannot_be_read_is_named_by_its_path(tree, path):
    with pytest.raises(ConfigError) as caught:
        extract(tree)
    assert caught.value.path == path


def test_yaml_reads_numbers_without_a_point_as_text_and_they_count():
    _, found = extract(yaml.safe_load("lr: {float: [1e-4, 1e-1], log: true, searcher: outer}"))
    assert found == {"lr": (Float(1e-4, 1e-1, log=True), "outer")}


NESTED = {
    "rule": {
        "choice": [
            {"type": "sgd", "lr": {"float": [0.1, 1.0]}, "nesterov": {"choice": [True, False], "searcher": "other"}},
            {"type": "adam", "lr": {"float": [0.1, 1.0]}, "betas": [{"float": [0.8, 0.9]}, 0.999]},
            "none",
            {"scale": 2},
        ],
        "searcher": "rules",
    }
}


def test_ranges_inside_an_option_exist_only_while_it_is_picked():
    template, found = extract(NESTED)
    assert found == {
        "rule": (Choice(("sgd", "adam", "none", "#3")), "rules"),
        "rule.lr": (Float(0.1, 1.0, when={"rule": ("sgd", "adam")}), "rules"),
        "rule.nesterov": (Choice((True, False), when={"rule": ("sgd",)}), "other"),
        "rule.betas.0": (Float(0.8, 0.9, when={"rule": ("adam",)}), "rules"),
    }
    assert isinstance(template["rule"], Hole)
    expected = {
        "sgd": {"type": "sgd", "lr": 0.5, "nesterov": False},
        "adam": {"type": "adam", "lr": 0.5, "betas": [0.85, 0.999]},
        "none": "none",
        "#3": {"scale": 2},
    }
    values = {"rule.lr": 0.5, "rule.nesterov": False, "rule.betas.0": 0.85}
    space = Space({name: dimension for name, (dimension, _) in found.items()})
    for label, option in expected.items():
        choices = space.walk(lambda name, _, label=label: label if name == "rule" else values[name])
        assert substitute(template, choices) == {"rule": option}


def test_options_with_different_ranges_of_one_name_get_names_of_their_own():
    tree = {
        "m": {"choice": [{"type": "a", "n": {"int": [1, 2]}}, {"type": "b", "n": {"int": [3, 4]}}, {"int": [5, 6]}]}
    }
    template, found = extract(tree)
    assert list(found) == ["m", "m.a.n", "m.b.n", "m.2"]
    space = Space({name: dimension for name, (dimension, _) in found.items()})
    assert space.size == 6
    seen = {json.dumps(substitute(template, space.sample(seed))["m"]) for seed in range(200)}
    assert seen == {
        json.dumps(option)
        for option in ({"type": "a", "n": 1}, {"type": "a", "n": 2}, {"type": "b", "n": 3}, {"type": "b", "n": 4}, 5, 6)
    }


def test_choices_nest_in_choices():
    inner = {"choice": [{"type": "x", "k": {"int": [1, 3]}}, "y"]}
    tree = {"a": {"choice": [{"type": "p", "b": inner}, {"type": "q", "b": inner}, "r"]}}
    template, found = extract(tree)
    assert list(found) == ["a", "a.b", "a.b.k"]
    space = Space({name: dimension for name, (dimension, _) in found.items()})
    assert space.size == 2 * (3 + 1) + 1
    choices = {"a": "q", "a.b": "x", "a.b.k": 2}
    assert space.contains(choices)
    assert substitute(template, choices) == {"a": {"type": "q", "b": {"type": "x", "k": 2}}}


def test_an_inactive_range_is_left_out_with_its_key():
    tree = {
        "decay": {"choice": [True, False]},
        "rate": {"float": [0, 1], "when": {"decay": True}},
        "list": [1, {"int": [1, 2], "when": {"decay": True}}],
    }
    _, found = extract(tree)
    assert found["rate"][0] == Float(0, 1, when={"decay": (True,)})
    assert substitute(tree, {"decay": False}) == {"decay": False, "list": [1]}
    assert substitute(tree, {"decay": True, "rate": 0.5, "list.1": 2}) == {"decay": True, "rate": 0.5, "list": [1, 2]}


@pytest.mark.parametrize(("choices", "problem"), [({}, "no value"), ({"n": 9}, "not in")])
def test_substitute_names_a_value_that_is_missing_or_outside(choices, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        substitute({"n": {"int": [1, 3]}}, choices)
    assert caught.value.path == "n"


def test_labels_are_scalars():
    options = (None, True, 2, 0.5, "text", {"type": "m"}, {"type": "twice", "x": 1}, {"type": "twice", "x": 2}, [1])
    assert Choice(options).values() == [None, True, 2, 0.5, "text", "m", "#6", "#7", "#8"]
    assert Choice(options).option("#7") == {"type": "twice", "x": 2}
    with pytest.raises(ConfigError, match="no option 'n'"):
        Choice(options).option("n")


def test_an_empty_space_has_one_point():
    assert not Space()
    assert len(Space()) == 0
    assert Space().size == 1
    assert Space().sample(0) == {}


def test_dimensions_are_independent_streams():
    space = Space({name: Choice((0, 1)) for name in "ab"})
    pairs = [tuple(space.sample(seed).values()) for seed in range(400)]
    for pair in itertools.product((0, 1), repeat=2):
        assert 60 < pairs.count(pair) < 140
