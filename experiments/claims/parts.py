"""The parts: each a list of jobs, and how to do them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metasearch.core.seeds import Draws
from metasearch.core.statistics import mean_ci95

from ..common.jobs import Job, Row, Store
from ..common.setting import AMPLITUDES, GROUP, PHASES, SCALED, SHEARED, Plan
from .course import opened
from .setting import CHARACTERS, RATES, SINES, STEPS, characters, pooled, pretrained, rotated, sines

__all__ = ["PARTS"]

TREES: Mapping[str, Callable[..., dict[str, Any]]] = {CHARACTERS: characters, SINES: sines}
LENGTHS = tuple(round(10 ** (power / 2), 3) for power in range(-4, 3))
"""Of steps along the gradient, from 0.01 to 10."""
RESAMPLES = 1000
SECONDS = {(CHARACTERS, 1): 120.0, (CHARACTERS, 5): 160.0, (SINES, 1): 25.0, (SINES, 5): 47.0}
"""Of a search with a number of inner steps, and of its course."""


def steps(plan: Plan) -> list[Job]:
    """Figures after 0 to 20 inner steps, for MAML trained with one and with five."""
    jobs = []
    for seed, panel, inner in itertools.product(range(plan.seeds), TREES, (1, 5)):
        labels = {"panel": panel, "learner": f"trained with {inner} step{'s' if inner > 1 else ''}"}
        given = {"tree": TREES[panel](plan, seed, inner=inner), "inner": inner, "steps": 20, "episodes": plan.of(400)}
        jobs.append(Job(labels, seed, SECONDS[panel, inner], _steps, given))
    return jobs


def reach(plan: Plan) -> list[Job]:
    """Steps of fine-tuning until it is where MAML is after one."""
    jobs = []
    for seed, panel in itertools.product(range(plan.seeds), TREES):
        tree = TREES[panel](plan, seed)
        for learner, start in _starts(tree, panel, plan).items():
            given = {
                "tree": tree,
                "start": start,
                "rates": None if learner == "MAML" else RATES[panel],
                "steps": plan.of(STEPS[panel]),
                "choosing": plan.of(100),
                "episodes": plan.of(200),
            }
            jobs.append(
                Job({"panel": panel, "learner": learner}, seed, 100.0 if panel == CHARACTERS else 12.0, _reach, given)
            )
    return jobs


def away(plan: Plan) -> list[Job]:
    """Held-out tasks unlike those of training; fine-tuning at the rate that is best on tasks like those of training."""
    panels: dict[str, tuple[str, str, Mapping[float, Any]]] = {
        "sheared": (CHARACTERS, "tasks__distortions", {x: {"test": one} for x, one in SHEARED.items()}),
        "scaled by a factor": (CHARACTERS, "tasks__distortions", {x: {"test": one} for x, one in SCALED.items()}),
        "classes": (CHARACTERS, "tasks__ways", {x: {"train": 5, "test": x} for x in (5, 10, 20)}),
        "sines, amplitude up to": (SINES, "tasks__amplitude", AMPLITUDES),
        "sines, phase up to (π)": (SINES, "tasks__phase", PHASES),
    }
    jobs = []
    for seed, (panel, (kind, key, places)) in itertools.product(range(plan.seeds), panels.items()):
        tree = TREES[kind](plan, seed)
        ways = itertools.product(list(_starts(tree, kind, plan).items())[:2], (1, 10), places.items())
        for (learner, start), number, (x, value) in ways:
            given = {
                "tree": tree,
                "start": start,
                "rates": None if learner == "MAML" else RATES[kind],
                "steps": number,
                "changes": {key: value},
                "x": x,
                "choosing": plan.of(100),
                "episodes": plan.of(200),
            }
            name = f"{learner.partition(',')[0]}, {number} step{'s' if number > 1 else ''}"
            jobs.append(Job({"panel": panel, "learner": name}, seed, 2.2 if kind == CHARACTERS else 0.3, _away, given))
    return jobs


def support(plan: Plan) -> list[Job]:
    """The outer loss on query examples, or on those that the inner loop has learned from."""
    measures = (
        (CHARACTERS, CHARACTERS, False),
        (CHARACTERS, f"{CHARACTERS}: cross-entropy", True),
        (SINES, SINES, True),
    )
    jobs = []
    for seed, (kind, panel, loss), along in itertools.product(range(plan.seeds), measures, ("query", "support")):
        given = {"tree": TREES[kind](plan, seed, along=along), "loss": loss, "episodes": plan.of(400)}
        labels = {"panel": panel, "learner": f"outer loss on {along} examples"}
        jobs.append(Job(labels, seed, 28.0 if kind == CHARACTERS else 13.0, _support, given))
    return jobs


def descent(plan: Plan) -> list[Job]:
    """Query losses along the first gradient of fine-tuning."""
    jobs = []
    for seed, panel in itertools.product(range(plan.seeds), TREES):
        tree = TREES[panel](plan, seed)
        for learner, start in _starts(tree, panel, plan).items():
            given = {"tree": tree, "start": start, "lengths": LENGTHS, "episodes": plan.of(400)}
            jobs.append(
                Job(
                    {"panel": panel, "learner": learner.partition(",")[0]},
                    seed,
                    13.0 if panel == CHARACTERS else 0.5,
                    _descent,
                    given,
                )
            )
    return jobs


def starts(plan: Plan) -> list[Job]:
    """Random weights and those of rotation prediction, which sees all training drawings and no label."""
    jobs = []
    for seed in range(plan.seeds):
        for name, source in (("random", None), ("self-supervised", rotated(plan, seed))):
            tuned = {
                "tree": pooled(plan, seed, None, None),
                "start": {} if source is None else {"searched": source},
                "rates": RATES[CHARACTERS],
                "steps": plan.of(20),
                "choosing": plan.of(100),
                "episodes": plan.of(400),
            }
            jobs.append(Job({"panel": CHARACTERS, "learner": f"{name}, fine-tuned"}, seed, 45.0, _tuned, tuned))
            for size in (10, 100, 1000, None):
                tree = pooled(plan, seed, size, source)
                given = {"tree": tree, "x": size or GROUP * plan.of(300), "episodes": plan.of(400)}
                jobs.append(Job({"panel": CHARACTERS, "learner": f"{name}, MAML"}, seed, 35.0, _pooled, given))
    return jobs


PARTS: dict[str, Callable[[Plan], list[Job]]] = {
    "steps": steps,
    "reach": reach,
    "away": away,
    "support": support,
    "descent": descent,
    "starts": starts,
}


def _starts(tree: Mapping[str, Any], panel: str, plan: Plan) -> dict[str, dict[str, Any]]:
    return {
        "MAML": {"searched": tree},
        "pre-trained, fine-tuned": {"pretrained": pretrained(panel, plan)},
        "random, fine-tuned": {},
    }


def _steps(store: Store, given: Mapping[str, Any]) -> list[Row]:
    loop = opened(store, given["tree"], {"searched": given["tree"]})
    found = loop.course("test", given["episodes"], range(given["steps"] + 1))
    gains = loop.better * (found - found[given["inner"]])
    return [
        row
        for number in range(len(found))
        for row in (_row(found[number], "figure", number), _row(gains[number], "gain", number))
    ]


def _reach(store: Store, given: Mapping[str, Any]) -> list[Row]:
    """The course of fine-tuning at its best rate, and after how many steps it is where MAML is after one."""
    tree, episodes = given["tree"], given["episodes"]
    maml = opened(store, tree, {"searched": tree})
    chosen = maml.course("validation", given["choosing"], [1]).mean()
    target, better = maml.course("test", episodes, [1])[0], maml.better

    def first(course: NDArray[np.float64], target: float) -> float:
        reached = np.flatnonzero(better * course >= better * target)
        return float(reached[0]) if len(reached) else math.inf

    rate = _best(store, given, lambda course: (-first(course, chosen), _worth(better * course[-1])))
    found = opened(store, tree, given["start"], **_at(rate)).course("test", episodes, range(given["steps"] + 1))
    drawn = Draws([tree["seed"]], "resamples").integers(RESAMPLES * episodes, episodes).reshape(RESAMPLES, -1)
    again = np.array([first(found[:, rows].mean(1), target[rows].mean()) for rows in drawn])
    low, high = (float(np.quantile(again, share, method="nearest")) for share in (0.025, 0.975))
    count = first(found.mean(1), target.mean())
    said = [f"{value:g}" if math.isfinite(value) else f"more than {given['steps']}" for value in (count, low, high)]
    reached = {
        "value": count if math.isfinite(count) else None,
        "ci95": (high - low) / 2 if math.isfinite(high) else math.nan,
        "episodes": episodes,
        "what": "steps",
        "x": None,
        "unit": "",
        "note": f"{said[0]} steps (95 % of resampled episodes: {said[1]} to {said[2]})"
        + ("" if rate is None else f" at a rate of {rate:g}"),
    }
    return [*(_row(one, "figure", number) for number, one in enumerate(found)), reached]


def _away(store: Store, given: Mapping[str, Any]) -> list[Row]:
    better = opened(store, given["tree"], {}).better
    rate = _best(store, given, lambda course: _worth(better * course[-1]))
    loop = opened(store, given["tree"], given["start"], **_at(rate), **given["changes"])
    return [_row(loop.course("test", given["episodes"], [given["steps"]])[0], "test", given["x"])]


def _support(store: Store, given: Mapping[str, Any]) -> list[Row]:
    """After the one step that was trained with; a gap is by how much support examples are ahead."""
    loop, loss = opened(store, given["tree"], {"searched": given["tree"]}), given["loss"]
    rows = []
    for split, name in (("train", "training tasks"), ("test", "test tasks")):
        on = {one: loop.course(split, given["episodes"], [1], one, loss=loss)[0] for one in ("support", "query")}
        rows += [_row(values, f"{name}, {one} examples", None) for one, values in on.items()]
        ahead = on["query"] - on["support"] if loss else on["support"] - on["query"]
        rows.append(_row(ahead, f"{name}, gap", None))
    return [{**row, "unit": "" if loss else "%"} for row in rows]


def _descent(store: Store, given: Mapping[str, Any]) -> list[Row]:
    loop = opened(store, given["tree"], given["start"])
    lengths = given["lengths"]
    found, own = loop.descent("test", given["episodes"], [0.0, *lengths])
    rows = [_row(own, "length of an own step", None), _row(found[0], "loss", 0.0)]
    for length, losses in zip(lengths, found[1:], strict=True):
        rows.append(_row(losses, "loss", length))
        rows.append(_row((found[0] - losses) / length, "fall per unit length", length))
    return [{**row, "unit": ""} for row in rows]


def _tuned(store: Store, given: Mapping[str, Any]) -> list[Row]:
    """Fine-tuning at the rate and after the number of steps that are best on validation tasks."""
    courses = _courses(store, given)
    rate, values = max(zip(given["rates"], courses, strict=True), key=lambda one: max(one[1]))
    number = int(np.argmax(values))
    loop = opened(store, given["tree"], given["start"], **_at(rate))
    row = _row(loop.course("test", given["episodes"], [number])[0], "test", 0)
    return [{**row, "note": f"{number} steps at a rate of {rate:g}"}]


def _pooled(store: Store, given: Mapping[str, Any]) -> list[Row]:
    loop = opened(store, given["tree"], {"searched": given["tree"]})
    return [_row(loop.course("test", given["episodes"], [1])[0], "test", given["x"])]


def _best(store: Store, given: Mapping[str, Any], value: Callable[[NDArray[np.float64]], Any]) -> float | None:
    """The rate whose course on validation tasks is worth most; None, the experiment's own, where none are given."""
    if given["rates"] is None:
        return None
    courses = [np.array(one) for one in _courses(store, given)]
    return float(max(zip(given["rates"], courses, strict=True), key=lambda one: value(one[1]))[0])


def _courses(store: Store, given: Mapping[str, Any]) -> list[list[float]]:
    """For each rate the mean figures on validation tasks after 0, 1 ... steps."""
    asked = {key: given[key] for key in ("tree", "start", "rates", "steps", "choosing")}

    def make() -> list[list[float]]:
        after = range(given["steps"] + 1)
        loops = (opened(store, given["tree"], given["start"], **_at(rate)) for rate in given["rates"])
        return [loop.course("validation", given["choosing"], after).mean(1).tolist() for loop in loops]

    found: list[list[float]] = store.once("courses", asked, make)
    return found


def _worth(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _at(rate: float | None) -> dict[str, Any]:
    return {} if rate is None else {"learner__slots__learning_rates__value": rate}


def _row(values: Sequence[float] | NDArray[np.float64], what: str, x: float | None) -> Row:
    """The mean over tasks; there is none where tasks have diverged, which is noted."""
    row = {"episodes": len(values), "what": what, "x": x}
    if diverged := int(np.count_nonzero(~np.isfinite(values))):
        return {**row, "value": None, "ci95": None, "note": f"{diverged} of {len(values)} tasks diverged"}
    mean, half = mean_ci95(values)
    return {**row, "value": mean, "ci95": half}
