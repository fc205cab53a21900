"""Measures a stored phi on held-out tasks, by the protocol of a search's own test."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metasearch import artifacts
from metasearch.core.contracts import InnerProblem, TaskDistribution
from metasearch.core.errors import ArtifactError, ConfigError
from metasearch.core.registry import build
from metasearch.core.values import Phi, Task, TaskSpec
from metasearch.execution import Inline
from metasearch.heldout import HeldOut, names_of
from metasearch.loaded import LoadedPhi, load
from metasearch.program import Blueprint, ExperimentProgram
from metasearch.results import flat
from metasearch.schema import Numerics
from metasearch.takeaway.rebuild import for_outputs, plain_config, trusted_block
from metasearch.trees import override, read

__all__ = ["evaluate", "evaluate_steps"]


def evaluate(
    phi: LoadedPhi | str | Path,
    *,
    tasks: str | Path | Mapping[str, Any] | Sequence[str] | TaskDistribution | None = None,
    episodes: int = 600,
    split: str = "test",
    steps: int | None = None,
    predict: str | None = None,
    seed: int = 0,
    shard: int | None = None,
    device: str = "cpu",
    runs: str | Path = "runs",
    allow_user_code: bool = False,
) -> dict[str, Any]:
    """Measures a stored phi on held-out tasks, in this process.

    With the tasks, steps, episodes and seed of the search this is its test figure again, digit for digit (on equal
    hardware and versions).

    Args:
        phi: a loaded phi, or what :func:`metasearch.loaded.load` takes.
        tasks: an experiment file, whose tasks are taken; a whole ``tasks`` block; overrides of the search's own,
            ``["ways=20"]`` or ``{"ways": 20}``; or a task distribution. None means the tasks of the search. For
            another number of classes phi is made to fit as :func:`~metasearch.takeaway.rebuild.for_outputs` says.
        episodes: tasks.
        split: where they come from.
        steps: inner steps; None means as many as at the search's test.
        predict: how an inner loop's network is asked: ``together``, ``alone``, ``both`` or ``nil``
            (:class:`~metasearch.learners.inner_loop.InnerLoop`); None means as at the search's test.
        seed: of the tasks; the search's own seed gives the tasks of its test.
        shard: tasks that are computed together; None means as many as at the search's test, else 25.
        device: where to compute.
        runs: folder of run directories, for ids.
        allow_user_code: whether modules that the manifest names may be imported.

    Returns:
        ``L``, each metric, their 95 % half-widths (``L_ci95`` ...), ``episodes``, ``parameters`` (numbers in phi) and
        ``seconds``, as in results.json; and ``split``, ``seed``, ``outputs`` and ``inner_steps``.

    Raises:
        ArtifactError: if phi cannot be loaded or built, or does not fit the tasks.
        ConfigError: if there are no such tasks.
    """
    loaded = _loaded(phi, runs, allow_user_code)
    program = _program(loaded, tasks, episodes, split, steps, predict, shard, device, ())
    fitting = _fitting(loaded, program, split)
    with Inline(functools.partial(_itself, program)) as executor:
        return _described(HeldOut(program, executor, seed).test(fitting), program, loaded, split, seed)


def evaluate_steps(
    phi: LoadedPhi | str | Path,
    steps: Sequence[int],
    *,
    baselines: Sequence[str | Mapping[str, Any]] = (),
    tasks: str | Path | Mapping[str, Any] | Sequence[str] | TaskDistribution | None = None,
    episodes: int = 600,
    split: str = "test",
    predict: str | None = None,
    seed: int = 0,
    shard: int | None = None,
    device: str = "cpu",
    runs: str | Path = "runs",
    allow_user_code: bool = False,
) -> dict[str, dict[int, dict[str, Any]]]:
    """Measures a stored phi, and baselines beside it, after several numbers of inner steps, on the same tasks.

    Args:
        phi: a loaded phi, or what :func:`metasearch.loaded.load` takes.
        steps: numbers of inner steps.
        baselines: as in an experiment's ``test`` block. Each is trained once; one that chooses its rate has its best
            one for each number of steps.
        tasks: see :func:`evaluate`, as for the following.
        episodes: tasks.
        split: where they come from.
        predict: see :func:`evaluate`.
        seed: of the tasks.
        shard: tasks that are computed together.
        device: where to compute.
        runs: folder of run directories, for ids.
        allow_user_code: whether modules that the manifest names may be imported.

    Returns:
        For ``phi`` and for each baseline, by the number of steps, what :func:`evaluate` returns.

    Raises:
        ArtifactError: if phi cannot be loaded or built, or does not fit the tasks.
        ConfigError: if there are no such tasks or baselines.
    """
    loaded = _loaded(phi, runs, allow_user_code)
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in ("phi", *names_of(baselines))}
    starts: dict[str, Phi] = {}
    for number in steps:
        program = _program(loaded, tasks, episodes, split, number, predict, shard, device, baselines)
        with Inline(functools.partial(_itself, program)) as executor:
            held_out = HeldOut(program, executor, seed)
            fields = held_out.test(_fitting(loaded, program, split))
            found["phi"][number] = _described(fields, program, loaded, split, seed)
            for name in names_of(baselines):
                starts[name] = starts[name] if name in starts else held_out.start(name)
                fields = held_out.baseline(name, held_out.tuned(name, starts[name]))
                found[name][number] = _described(fields, program, loaded, split, seed)
    return found


def _itself(program: ExperimentProgram) -> ExperimentProgram:
    return program


def _loaded(phi: LoadedPhi | str | Path, runs: str | Path, allow_user_code: bool) -> LoadedPhi:
    loaded = phi if isinstance(phi, LoadedPhi) else load(phi, allow_user_code=allow_user_code, runs=runs)
    if allow_user_code and not loaded.allow_user_code:
        loaded = LoadedPhi(artifacts.StoredPhi(loaded.phi, loaded.manifest), loaded.source, allow_user_code=True)
    return loaded


def _program(
    loaded: LoadedPhi,
    tasks: Any,
    episodes: int,
    split: str,
    steps: int | None,
    predict: str | None,
    shard: int | None,
    device: str,
    baselines: Sequence[str | Mapping[str, Any]],
) -> ExperimentProgram:
    """The program that measures: the search's own, for one split and one number of inner steps."""
    learner_block = _learner(loaded, steps, predict)
    numerics = {**(loaded.manifest.config.get("numerics") or {}), "device": device, "compile": "never"}
    given = _tasks(loaded, tasks, numerics, device)
    stored = loaded.manifest.config.get("test") or {}
    test = {
        "episodes": episodes,
        "split": split,
        "shard": shard or stored.get("shard", 25),
        "baselines": [*baselines],
    }
    tree = {
        "tasks": given if baselines else _OneSplit(given, split),
        "learner": learner_block,
        "numerics": numerics,
        "budget": {"steps": 1},
        "test": test,
    }
    return ExperimentProgram(Blueprint(tree, device=device))


def _described(
    fields: Mapping[str, Any], program: ExperimentProgram, loaded: LoadedPhi, split: str, seed: int
) -> dict[str, Any]:
    learner, spec = program.learner(loaded.phi.choices, split), program.tasks.spec(split)
    inner_steps = learner.n_steps(train=split == "train") if isinstance(learner, InnerProblem) else None
    return {**flat(fields), "split": split, "seed": seed, "outputs": spec.outputs, "inner_steps": inner_steps}


class _OneSplit:
    """Tasks all of whose shapes are those of one split, so that the learner is built for what it is measured on."""

    def __init__(self, tasks: TaskDistribution, split: str) -> None:
        self._tasks, self._split = tasks, split

    def spec(self, split: str) -> TaskSpec:
        return self._tasks.spec(self._split)

    def sample(self, split: str, seeds: NDArray[np.int64]) -> Task:
        return self._tasks.sample(split, seeds)

    def n_tasks(self, split: str) -> int | None:
        return self._tasks.n_tasks(split) if hasattr(self._tasks, "n_tasks") else None


def _tasks(loaded: LoadedPhi, given: Any, numerics: Mapping[str, Any], device: str) -> TaskDistribution:
    """The distribution to measure on."""
    if hasattr(given, "sample") and hasattr(given, "spec"):
        return given
    block = _block(loaded, given)
    dtype = getattr(torch, Numerics.model_validate(numerics).dtype)
    return build("task", block, "tasks", device=device, dtype=dtype)


def _block(loaded: LoadedPhi, given: Any) -> dict[str, Any]:
    """The ``tasks`` block: the caller's own, or that of the search with the caller's overrides."""
    if isinstance(given, str | Path):
        tree = read(given)
        found = tree.get("tasks", tree if "type" in tree else None)
        if found is None:
            raise ConfigError(
                "tasks", f"{given} has no such block; give an experiment file, or overrides of the search's own tasks"
            )
        return dict(plain_config(found if isinstance(found, Mapping) else {"type": found}, {}))
    if isinstance(given, Mapping) and "type" in given:
        return dict(given)
    stored = loaded.manifest.config.get("tasks")
    if not isinstance(stored, Mapping | str) or (isinstance(stored, Mapping) and "type" not in stored):
        raise ArtifactError(
            f"this phi was learned on tasks that its manifest cannot describe ({stored!r}); say on which to measure: "
            "tasks=..."
        )
    artifacts.refuse_user_code(stored, allow_user_code=loaded.allow_user_code)
    base = {"tasks": stored if isinstance(stored, Mapping) else {"type": stored}}
    plain = plain_config(base, loaded.phi.choices)
    if given is None:
        return dict(plain["tasks"])
    if isinstance(given, Mapping):
        return dict(override(plain, {f"tasks.{key}": value for key, value in given.items()})["tasks"])
    return dict(override(plain, [f"tasks.{one.removeprefix('tasks.')}" for one in given])["tasks"])


def _learner(loaded: LoadedPhi, steps: int | None, predict: str | None) -> Any:
    """The learner's block, with the number of inner steps and the way of predicting that are asked for."""
    block = trusted_block(loaded.manifest, allow_user_code=loaded.allow_user_code)
    block = plain_config({"learner": block}, loaded.phi.choices)["learner"]
    if predict is not None:
        block = {**block, "predict": predict}
    if steps is None:
        return block
    present = block.get("steps", 1)
    train = present["train"] if isinstance(present, Mapping) else present
    return {**block, "steps": {"train": train, "test": steps}}


def _fitting(loaded: LoadedPhi, program: ExperimentProgram, split: str) -> Phi:
    """Phi for the number of outputs of a split's tasks."""
    learned, spec = loaded.spec, program.tasks.spec(split)
    if (spec.kind, spec.input_shape) != (learned.kind, learned.input_shape):
        raise ArtifactError(
            f"this phi was learned on {learned.kind} of inputs {list(learned.input_shape)}, these tasks are "
            f"{spec.kind} of inputs {list(spec.input_shape)}; choose tasks of the same kind and size"
        )
    wanted = program.learner(loaded.phi.choices, split)
    if spec.outputs == learned.outputs:
        artifacts.check_fits(loaded.phi, wanted.init(0))
        return loaded.phi
    return for_outputs(loaded.phi, loaded.learner(), wanted)
