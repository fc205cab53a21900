"""The parts of the comparison: each a list of jobs, and how to do them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import metasearch as ms
from metasearch import artifacts
from metasearch.core.errors import MetasearchError
from metasearch.core.files import from_json
from metasearch.loaded import LoadedPhi
from metasearch.reporting.history import History
from metasearch.tracking.journal import read

from ..common.jobs import Job, Row, Store
from ..common.setting import AMPLITUDES, GROUP, PHASES, SCALED, SHEARED, Plan, changed
from .crowd import apart
from .setting import FAMILIES, LEARNERS, SINES, omniglot, sines

__all__ = ["PARTS"]

TRAINED = 80.0
"""Seconds of one search of ``curves`` with validation and test."""
STRENGTHS: dict[str, Mapping[float, dict[str, Any]]] = {
    "sheared": SHEARED,
    "scaled by a factor": SCALED,
    "share of inverted pictures": {s: {"invert": True, "probability": s} for s in (0.0, 0.5, 1.0)},
}


def curves(plan: Plan) -> list[Job]:
    """Accuracy along training, and at its end."""
    return [
        Job({"panel": f"{ways}-way", "learner": learner}, seed, TRAINED, _curve, {"tree": tree})
        for seed in range(plan.seeds)
        for ways in (5, 20)
        for learner in FAMILIES
        for tree in [_long(learner, plan, seed, ways)]
    ]


def shift(plan: Plan) -> list[Job]:
    """Held-out tasks that are unlike those of training; the gradient-based learner also takes more steps."""
    jobs = []
    for seed in range(plan.seeds):
        for learner in FAMILIES:
            tree, steps = _long(learner, plan, seed, 5), (1, 5, 10) if learner == "maml" else (None,)
            for panel, strengths in STRENGTHS.items():
                asked = {x: {"distortions": {"test": one}} for x, one in strengths.items()}
                jobs += _shifted(panel, learner, seed, tree, asked, steps, plan.of(200), 1.5)
        for learner in SINES:
            tree, steps = sines(learner, plan, seed, steps=3000), (1, 5, 10, 50) if learner == "maml" else (None,)
            for panel, key, intervals in (
                ("sines, amplitude up to", "amplitude", AMPLITUDES),
                ("sines, phase up to (π)", "phase", PHASES),
            ):
                asked = {x: {key: ends} for x, ends in intervals.items()}
                jobs += _shifted(panel, learner, seed, tree, asked, steps, plan.of(400), 1.5)
    return jobs


def support(plan: Plan) -> list[Job]:
    """Support sets up to 10,000 examples of five classes; and more classes than in training."""
    jobs = []
    for learner in FAMILIES:
        tree = _long(learner, plan, 0, 5)
        for shots in (1, 5, 15, 50, 200, 500, 1000, 2000):
            episodes = plan.of(100 if shots <= 200 else 10)
            given = {"tree": tree, "shots": shots, "episodes": episodes, "memory": plan.memory, "x": 5 * shots}
            jobs.append(Job({"panel": "5 classes", "learner": learner}, 0, 7.0 + shots / 200, _crowded, given))
        for ways in (5, 10, 20):
            given = {"tree": tree, "x": ways, "ask": {"tasks": {"ways": ways}, "episodes": plan.of(200)}}
            jobs.append(Job({"panel": "classes", "learner": learner}, 0, 4.0, _measured, given))
    return jobs


def pool(plan: Plan) -> list[Job]:
    """The number of different tasks that training repeats; without a pool no task comes twice."""
    steps = 300
    jobs = []
    for seed in range(plan.seeds):
        for size in (10, 100, 1000, None):
            for learner in FAMILIES:
                tree = changed(omniglot(learner, plan, seed, steps=steps), tasks__pool=size, test__baselines=[])
                given = {"tree": tree, "x": size or GROUP * plan.of(steps)}
                jobs.append(Job({"panel": "5-way", "learner": learner}, seed, 26.0, _tested, given))
    return jobs


def context(plan: Plan) -> list[Job]:
    """Class means, single neighbours, and neighbours in the context of the support set."""
    learners = {
        "prototypical": LEARNERS["prototypical"],
        "matching": LEARNERS["matching"],
        "matching in context": {**LEARNERS["matching"], "context": {"steps": 5}},
    }
    jobs = []
    for seed in range(plan.seeds):
        for within in (False, True):
            for learner, block in learners.items():
                tree = changed(
                    omniglot("matching", plan, seed, ways=10, steps=200),
                    learner=block,
                    tasks__within_alphabet=within,
                    test=None,
                )
                for asked in (False, True):
                    labels = {"panel": f"trained {_where(within)}", "learner": learner, "what": _where(asked)}
                    ask = {"tasks": {"within_alphabet": asked}, "episodes": plan.of(300)}
                    jobs.append(Job(labels, seed, 19.0, _measured, {"tree": tree, "x": None, "ask": ask}))
    return jobs


def untrained(plan: Plan) -> list[Job]:
    """A random phi beside a trained one; a soft nearest neighbour beside a hard one, in training and at the test."""
    jobs = []
    for seed in range(plan.seeds):
        for learner in FAMILIES:
            given = {"tree": _long(learner, plan, seed, 5)}
            jobs.append(Job({"panel": "a random φ", "learner": learner}, seed, 1.0, _both, given))
        for kind, temperature in (("soft", 0.1), ("hard", 0.001)):
            tree = changed(
                omniglot("matching", plan, seed, steps=200),
                tasks__shots=5,
                learner__distance={"type": "cosine", "temperature": temperature},
                test=None,
            )
            for name, asked in (("soft", 0.1), ("hard", 0.001)):
                labels = {"panel": "nearest neighbour", "learner": f"{kind} in training", "what": f"{name} at test"}
                given = {"tree": tree, "x": None, "temperature": asked, "ask": {"episodes": plan.of(300)}}
                jobs.append(Job(labels, seed, 16.0, _measured, given))
    return jobs


def spread(plan: Plan) -> list[Job]:
    """Random settings of each family: a search whose evaluations are short searches."""
    jobs = []
    for learner in FAMILIES:
        inner = changed(
            omniglot(learner, plan, 0, steps=80),
            evaluation__tasks=GROUP // 2,
            evaluation__shard=GROUP // 2,
            validation__every=plan.of(40),
            validation__episodes=plan.of(100),
            test=None,
            **_ranges(learner),
        )
        outer = {
            "name": f"{learner}-spread",
            "searcher": {"type": "random"},
            "evaluation": {"type": "search", "report": "validation/accuracy", "search": inner},
            "budget": {"evaluations": plan.of(50, least=3)},
            "execution": {"type": "inline"},
            "tracking": {"mlflow": False, "report": False},
        }
        jobs.append(Job({"panel": "random settings", "learner": learner}, 0, 200.0, _spread, {"tree": outer}))
    return jobs


PARTS: dict[str, Callable[[Plan], list[Job]]] = {
    "curves": curves,
    "shift": shift,
    "support": support,
    "pool": pool,
    "context": context,
    "untrained": untrained,
    "spread": spread,
}


def _long(learner: str, plan: Plan, seed: int, ways: int) -> dict[str, Any]:
    """The searches of ``curves``, which other parts measure, too."""
    tree = omniglot(learner, plan, seed, ways=ways)
    return changed(tree, learner__length=32) if learner == "snail" and ways > 5 else tree


def _ranges(learner: str) -> dict[str, Any]:
    """What is drawn for each family: rate, decay, width and ways in training; and what only it has."""
    network = "embedding" if learner == "snail" else "model"
    ranges = {
        "searcher__optimizer": "adamw",
        "searcher__lr": {"float": [1e-4, 3e-2], "log": True},
        "searcher__weight_decay": {"float": [1e-6, 1e-1], "log": True},
        f"learner__{network}__filters": {"choice": [8, 16, 32]},
        "tasks__ways": {"train": {"choice": [5, 10, 20]}, "validation": 5, "test": 5},
    }
    own = {
        "prototypical": {
            "learner__distance": {"type": "squared_euclidean", "temperature": {"float": [0.1, 100.0], "log": True}}
        },
        "snail": {
            "learner__capacity": 20,
            "learner__filters": {"choice": [16, 32, 64]},
            "learner__length": {"choice": [4, 8, 32]},
        },
        "maml": {
            "learner__slots__learning_rates__value": {"float": [0.01, 1.0], "log": True},
            "learner__steps": {"int": [1, 3]},
        },
    }
    return ranges | own[learner]


def _where(within: bool) -> str:
    return "within alphabets" if within else "across alphabets"


def _shifted(
    panel: str,
    learner: str,
    seed: int,
    tree: Mapping[str, Any],
    asked: Mapping[float, Mapping[str, Any]],
    steps: tuple[int | None, ...],
    episodes: int,
    seconds: float,
) -> list[Job]:
    """The jobs of one panel: a measurement for each strength and number of inner steps."""
    return [
        Job(
            {"panel": panel, "learner": learner if number is None else f"{learner}, steps: {number}"},
            seed,
            seconds,
            _measured,
            {"tree": tree, "x": x, "ask": {"tasks": tasks, "steps": number, "episodes": episodes}},
        )
        for x, tasks in asked.items()
        for number in steps
    ]


def _curve(store: Store, given: Mapping[str, Any]) -> list[Row]:
    """Validations along a search, by tasks and by seconds of training (without those of validation); and its test."""
    path = store.searched(given["tree"])
    seconds, tasks, before, rows = 0.0, 0, 0.0, []
    for record in read(path / "journal.jsonl"):
        if record["type"] == "evaluation":
            tasks += record["tasks"]
        if record["type"] == "validation":
            rows.append(_row(record["metrics"], record["metrics_ci95"], record["episodes"], "validation", tasks))
            rows[-1]["seconds"] = seconds
        elif record["type"] not in ("start", "test", "end"):
            seconds += record["elapsed"] - before
        before = record["elapsed"]
    return [*rows, {**_test(path), "x": tasks, "seconds": seconds}]


def _tested(store: Store, given: Mapping[str, Any]) -> list[Row]:
    return [{**_test(store.searched(given["tree"])), "x": given["x"]}]


def _both(store: Store, given: Mapping[str, Any]) -> list[Row]:
    path = store.searched(given["tree"])
    return [{**_test(path, "random"), "what": "random"}, {**_test(path), "what": "trained"}]


def _test(path: Path, baseline: str | None = None) -> Row:
    results = from_json((path / "results.json").read_text("utf-8"))
    return _figures(results["test"] if baseline is None else results["baselines"][baseline])


def _figures(found: Mapping[str, Any]) -> Row:
    """The test figure as a row: accuracy where there is one, else L."""
    name = "accuracy" if "accuracy" in found else "L"
    return {
        "value": found[name],
        "ci95": found[f"{name}_ci95"],
        "episodes": found["episodes"],
        "what": "test",
        "x": None,
    }


def _row(values: Mapping[str, float], widths: Mapping[str, float], episodes: int, what: str, x: float) -> Row:
    return {"value": values["accuracy"], "ci95": widths["accuracy"], "episodes": episodes, "what": what, "x": x}


def _measured(store: Store, given: Mapping[str, Any]) -> list[Row]:
    """A stored phi on other held-out tasks; what it refuses is noted."""
    phi = ms.load(store.searched(given["tree"]) / "phi")
    if "temperature" in given:
        phi = _cooled(phi, given["temperature"])
    try:
        row = _figures(ms.evaluate(phi, seed=given["tree"]["seed"], shard=25, **given["ask"]))
    except MetasearchError as error:
        row = {"value": None, "ci95": None, "episodes": 0, "what": "test", "note": str(error).splitlines()[0]}
    named = {"x": given["x"]} if given["x"] is not None else {}
    return [{**row, **named}]


def _cooled(phi: LoadedPhi, temperature: float) -> LoadedPhi:
    """The same phi compared at another temperature."""
    config = changed(phi.manifest.config, learner__distance__temperature=temperature)
    manifest = phi.manifest.model_copy(update={"config": config})
    return LoadedPhi(artifacts.StoredPhi(phi.phi, manifest), phi.source)


def _crowded(store: Store, given: Mapping[str, Any]) -> list[Row]:
    """A support set of any size, in a process of its own."""
    asked = {key: given[key] for key in ("shots", "episodes", "memory")}
    phi = store.searched(given["tree"]) / "phi"
    found = apart({**asked, "phi": str(phi), "seed": given["tree"]["seed"]}, timeout_s=600.0)
    return [{**found, "what": "test", "x": given["x"]}]


def _spread(store: Store, given: Mapping[str, Any]) -> list[Row]:
    """The best validation under each setting; a search that diverged before its first counts as chance."""
    history = History(store.searched(given["tree"]))
    chance = 1.0 / 5.0
    episodes = given["tree"]["evaluation"]["search"]["validation"]["episodes"]
    return [
        {
            "value": -one.L if np.isfinite(one.L) else chance,
            "ci95": None,
            "episodes": episodes,
            "what": "validation",
            "x": one.id,
            "note": ", ".join(f"{name.rpartition('search.')[2]}={value}" for name, value in one.choices.items()),
        }
        for one in sorted(history.proposals, key=lambda one: one.id)
    ]
