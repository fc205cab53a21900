"""results.json: the figures of a finished run, machine-readable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from metasearch.core.objectives import Limit, Objectives, front
from metasearch.experiment import Experiment
from metasearch.plan import changes_of, merit
from metasearch.schema import ExperimentFile
from metasearch.tracking import RunDirectory
from metasearch.trees import recorded

__all__ = ["best_proposal", "best_validations", "flat", "pareto_set", "schedule_of", "summarize_run"]

Record = dict[str, Any]


def summarize_run(experiment: Experiment, directory: RunDirectory, records: Sequence[Record]) -> dict[str, Any]:
    """What results.json holds: the test figure and its baselines, what was selected, and what it cost.

    Each metric stands beside its 95 % half-width (``accuracy``, ``accuracy_ci95``), as a share of 1. ``refitted`` says
    how the phi that ``test`` is about was trained again, if it was; ``before_refit`` is then among the baselines. So is
    the mean prediction of several phis, if it was asked for (``ensemble_of_5``, with its number of ``networks``).
    """
    file = experiment.file
    evaluations = [one for one in records if one["type"] == "evaluation"]
    last = {one["name"]: one for one in records if one["type"] == "test"}
    tests = {name: flat(one) for name, one in last.items()}
    best = [one for one in records if one["type"] == "validation" and one["best"]]
    start = next(one for one in records if one["type"] == "start")
    return {
        "format": 1,
        "run": directory.id,
        "name": file.name,
        "seed": file.seed,
        "status": "finished",
        "test": tests.pop("metasearch", None),
        "baselines": tests,
        "paper": None if file.paper is None else file.paper.model_dump(),
        "selected": _selected(best, records, Objectives(constraints=file.constraints or {})),
        "refitted": last.get("metasearch", {}).get("refitted"),
        "objectives": file.objectives,
        "pareto": None if file.objectives is None else pareto_set(records, _objectives(file)),
        "steps": len({one["step"] for one in evaluations}),
        "evaluations": len(evaluations),
        "tasks": sum(one["tasks"] for one in evaluations),
        "seconds": records[-1]["elapsed"],
        "protocol": _protocol(experiment),
        "phi": "phi",
        "command": start.get("command", ""),
    }


def best_proposal(records: Sequence[Record], constraints: Mapping[str, Limit] | None = None) -> Record | None:
    """The record of the evaluation with the lowest L among those of proposals that made choices, and its choices.

    Those that break a constraint are passed over.
    """
    limits = Objectives(constraints=constraints or {})
    done = [one for one in _chosen(records) if limits.feasible(_figures(one))]
    return min(done, key=lambda one: float(one["L"]), default=None)


def best_validations(records: Sequence[Record], select: str, count: int) -> list[Record]:
    """The validations with the best figures, best first, at most ``count``; of equal ones the earlier is better.

    Those without a finite figure are passed over.

    Args:
        records: of a run.
        select: ``L`` (lowest is best) or a metric (highest is best).
        count: how many.
    """
    found = [one for one in records if one["type"] == "validation" and math.isfinite(merit(one, select))]
    return sorted(found, key=lambda one: (-merit(one, select), one["step"]))[:count]


def pareto_set(records: Sequence[Record], objectives: Objectives) -> list[dict[str, Any]]:
    """The evaluations that keep all constraints and that no other such one beats in every objective.

    In the order of the first objective, best first: ``evaluation``, ``choices`` and ``values``, all its figures.
    """
    done = [one for one in _chosen(records) if objectives.feasible(_figures(one))]
    vectors = [objectives.vector(_figures(one)) for one in done]
    best = sorted(front(vectors), key=lambda index: vectors[index])
    return [
        {"evaluation": one["id"], "choices": one["choices"], "values": _figures(one)}
        for one in (done[index] for index in best)
    ]


def _chosen(records: Sequence[Record]) -> list[Record]:
    """The records of evaluations that ended well, of proposals that made choices, with those choices."""
    choices = {
        one["id"]: one["choices"] for record in records if record["type"] == "ask" for one in record["proposals"]
    }
    return [
        {**one, "choices": choices[one["id"]]}
        for one in records
        if one["type"] == "evaluation" and one["status"] == "ok" and choices.get(one["id"])
    ]


def _figures(record: Record) -> dict[str, float]:
    return {**record["metrics"], "L": record["L"], "seconds": record["seconds"]}


def _objectives(file: ExperimentFile) -> Objectives:
    return Objectives(file.objectives or {"L": "min"}, file.constraints or {})


def schedule_of(records: Sequence[Record], proposal: int) -> list[dict[str, Any]]:
    """The choices over the course of a population member's training, ``from`` (budget done) and ``choices`` each.

    Where it took over another member's state, the course is the other's up to there. Empty if there is no population.
    """
    changes = changes_of(records)
    courses = {
        one["id"]: [{"from": 0, "choices": one["choices"]}]
        for record in records
        if record["type"] == "ask"
        for one in record["proposals"]
    }
    for change in changes:
        courses |= {
            number: [*courses[one.source], {"from": change.step, "choices": dict(one.choices)}]
            for number, one in change.members.items()
            if one.source != number
        }
    return courses[proposal] if changes else []


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a ``test`` record, each metric beside its half-width."""
    row = {"L": record["L"], "L_ci95": record["L_ci95"], "episodes": record["episodes"]}
    for name, value in record["metrics"].items():
        row |= {name: value, f"{name}_ci95": record["metrics_ci95"][name]}
    networks = {"networks": record["networks"]} if "networks" in record else {}
    return row | networks | {"parameters": record["parameters"], "seconds": record["seconds"]}


def _selected(best: Sequence[Record], records: Sequence[Record], limits: Objectives) -> dict[str, Any] | None:
    """The validation by which phi was selected, else the best proposal of a search over choices."""
    if best:
        record = best[-1]
        chosen = {"choices": record["choices"]} if record.get("choices") else {}
        return {"step": record["step"], "L": record["L"], **record["metrics"], **chosen}
    found = best_proposal(records, limits.constraints)
    if found is None:
        return None
    selected = {"evaluation": found["id"], "L": found["L"], "choices": found["choices"], **found["metrics"]}
    schedule = schedule_of(records, found["id"])
    return {**selected, "schedule": schedule} if schedule else selected


def _protocol(experiment: Experiment) -> dict[str, Any]:
    """How the figures were measured: what has to stand beside them."""
    file = experiment.file
    tree = recorded(experiment.tree)
    learner = tree.get("learner") if isinstance(tree.get("learner"), Mapping) else {}
    return {
        "tasks": tree.get("tasks"),
        "inner_steps": learner.get("steps"),
        "batch_norm": getattr(experiment.program.learner({}), "batch_norm", None) if file.learner is not None else None,
        "split": file.test.split if file.test else None,
        "episodes": file.test.episodes if file.test and experiment.episodes else None,
        "interval": "95 %, 1.96 standard errors over episodes" if experiment.episodes else None,
    }
