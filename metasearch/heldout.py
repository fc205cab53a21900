"""Validation on the way and test after the stop: the same episodes for everyone who is compared."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from metasearch.core import seeds as seeding
from metasearch.core.contracts import Executor, InnerProblem, TaskDistribution
from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.values import Call, Phi
from metasearch.estimators.value import Value
from metasearch.evaluation.ensemble import stacked
from metasearch.evaluation.intervals import Summary, summarize
from metasearch.execution import gather
from metasearch.program import ExperimentProgram

__all__ = ["HeldOut", "names_of", "takes_list"]


_SHOWN_STEPS = 50
"""Inner loops of more steps are training runs, of which no pictures are kept after each step."""


class HeldOut:
    """Measures phi on tasks that the search does not learn from.

    Args:
        program: the driver's own program (it only makes calls and sums up; workers measure).
        executor: where calls run; nothing else may be in flight on it.
        seed: seed of the search; validation and test episodes derive from it.
    """

    def __init__(self, program: ExperimentProgram, executor: Executor, seed: int) -> None:
        self._program, self._executor, self._seed = program, executor, seed
        self._file = program.file

    def validate(self, phi: Phi, step: int) -> Mapping[str, Any]:
        """The fields of a ``validation`` record; always the same episodes, so that steps are comparable."""
        settings = self._file.validation
        assert settings is not None
        calls = self.calls("validation", phi, settings.episodes, settings.shard, settings.split)
        return _fields(summarize(gather(self._executor, calls)))

    def test(self, phi: Phi) -> dict[str, Any]:
        """The fields of a ``test`` record."""
        settings = self._file.test
        assert settings is not None
        if settings.retrain is not None:
            phi = self._for_retraining(phi)
        function = "test" if settings.retrain is None else "retrain"
        return self._timed(function, phi, settings.episodes, settings.shard, settings.split)

    def compare(self, phi: Phi, candidates: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """L of candidates for the choices of a phi, on the same tasks of the validation split, with its own tensors.

        Returns:
            ``choices``, ``L`` and metrics of each, in their order.
        """
        settings = self._file.test
        assert settings is not None
        assert settings.derive is not None
        episodes = settings.derive.episodes
        calls = [
            dataclasses.replace(call, proposal=index)
            for index, choices in enumerate(candidates)
            for call in self.calls("validation", phi.replace(choices=choices), episodes, 1, "validation")
        ]
        found = gather(self._executor, calls)
        rows = [summarize(found[start : start + episodes]) for start in range(0, len(found), episodes)]
        return [
            {"choices": dict(choices), "L": row.L, **row.metrics} for choices, row in zip(candidates, rows, strict=True)
        ]

    def _for_retraining(self, phi: Phi) -> Phi:
        """What the learner of ``test.retrain`` takes of a phi."""
        fresh = self._program.retrained(phi.choices).init(0)
        lacking = [name for name in (*fresh.tensors, *fresh.buffers) if name not in {**phi.tensors, **phi.buffers}]
        if lacking:
            raise UnsupportedError(
                "test.retrain", f"needs {', '.join(lacking)}, which the search has not learned; see its slots"
            )
        return Phi(
            {name: phi.tensors[name] for name in fresh.tensors},
            {name: phi.buffers[name] for name in fresh.buffers},
            phi.choices,
        )

    def single(self, phi: Phi) -> dict[str, Any]:
        """The fields of a ``test`` record where the evaluation itself has a test (``takes_test``), in one call."""
        settings = self._file.test
        assert settings is not None
        seed = seeding.derive(self._seed, "test", settings.split)
        calls = self._program.function("train").calls(0, self._executor.put(phi), None, seed)
        return self._summed([dataclasses.replace(call, split=settings.split) for call in calls], phi)

    def prepare(self, name: str) -> Phi:
        """The phi of a baseline, made on a worker."""
        return self.tuned(name, self.start(name))

    def start(self, name: str) -> Phi:
        """The phi of a baseline before it has chosen what depends on the number of inner steps."""
        return self._made("start", name)

    def tuned(self, name: str, start: Phi) -> Phi:
        """The phi of a baseline that goes on from its start."""
        return self._made("tuned", name, start)

    def _made(self, kind: str, name: str, start: Phi | None = None) -> Phi:
        seed = seeding.derive(self._seed, "baseline", name)
        call = Call(0, 0, f"{kind}:{name}", None, (), seed, carried=start)
        phi: Phi = gather(self._executor, [call])[0].carried
        return phi

    def baseline(self, name: str, phi: Phi | None = None) -> dict[str, Any]:
        """Measures a baseline as :meth:`test` does; its phi is prepared first unless it is given."""
        settings = self._file.test
        assert settings is not None
        start = time.monotonic()
        phi = self.prepare(name) if phi is None else phi
        fields = self._timed(f"baseline:{name}", phi, settings.episodes, settings.shard, settings.split)
        return {**fields, "seconds": time.monotonic() - start}

    def ensemble(self, phis: Sequence[Phi]) -> dict[str, Any]:
        """The fields of a ``test`` record of the mean prediction of several phis, on the episodes of :meth:`test`;
        ``parameters`` are those of all of them, ``networks`` is their number.
        """
        settings = self._file.test
        assert settings is not None
        fields = self._timed("ensemble", stacked(phis), settings.episodes, settings.shard, settings.split)
        return {**fields, "networks": len(phis)}

    def pictures(self, phi: Phi, episodes: int = 3) -> dict[str, NDArray[Any]] | None:
        """Image episodes of the test, with what the learner says about them after 0, 1 ... inner steps.

        Returns:
            ``support_x``, ``support_y``, ``query_x``, ``query_y``, ``predictions`` and ``confidence``
            (``[E, m, steps + 1]``); None for learners without inner steps or with many, and for tasks that are not
            image classification.
        """
        settings, problem = self._file.test, self._program.problem
        assert settings is not None
        learner = problem.learner(phi.choices, settings.split)
        spec = problem.tasks.spec(settings.split)
        if spec.kind != "classification" or len(spec.input_shape) != 3 or not isinstance(learner, InnerProblem):
            return None
        count = learner.n_steps(train=False) + 1
        if settings.retrain is not None or count > _SHOWN_STEPS:
            return None
        seeds = self.calls("test", Phi(), episodes, episodes, settings.split)[0].seeds
        with self._program.numerics():
            task = problem.sample(settings.split, seeds)
            adapt = functools.partial(learner.adapt, problem.phi(phi), task.support, self._seed)
            outputs = [adapt(steps=step)(task.query.x) for step in range(count)]
        shares = torch.stack([torch.softmax(one, -1) for one in outputs], dim=2).cpu()
        confidence, predictions = shares.max(-1)
        support, query = task.support.to("cpu"), task.query.to("cpu")
        return {
            "support_x": support.x.numpy(),
            "support_y": support.y.numpy(),
            "query_x": query.x.numpy(),
            "query_y": query.y.numpy(),
            "predictions": predictions.numpy(),
            "confidence": confidence.numpy(),
        }

    def calls(self, function: str, phi: Phi, episodes: int, shard: int, split: str) -> list[Call]:
        """The calls of one held-out evaluation; baselines see the episodes of the test."""
        value = Value(Value.Config(tasks=episodes, shard=shard), self._program.problem, function)
        purpose = "validation" if function == "validation" else "test"
        seed = seeding.derive(self._seed, purpose, split)
        calls = value.calls(0, self._executor.put(phi), None, seed, split)
        if not takes_list(self._program.tasks, split, episodes, purpose):
            return calls
        numbers = tuple(range(episodes))
        return [
            dataclasses.replace(call, seeds=numbers[start : start + shard])
            for call, start in zip(calls, range(0, episodes, shard), strict=True)
        ]

    def _timed(self, function: str, phi: Phi, episodes: int, shard: int, split: str) -> dict[str, Any]:
        return self._summed(self.calls(function, phi, episodes, shard, split), phi)

    def _summed(self, calls: Sequence[Call], phi: Phi) -> dict[str, Any]:
        start = time.monotonic()
        measurements = gather(self._executor, calls)
        parameters = sum(value.numel() for value in phi.tensors.values())
        return {
            **_fields(summarize(measurements)),
            "seconds": time.monotonic() - start,
            "parameters": parameters,
        }


def takes_list(tasks: TaskDistribution, split: str, episodes: int, block: str) -> bool:
    """Whether a split is a list of tasks, of which a held-out evaluation takes the first ``episodes``, each once.

    Raises:
        ConfigError: if it has fewer.
    """
    count = tasks.n_tasks(split) if hasattr(tasks, "n_tasks") else None
    if count is not None and episodes > count:
        raise ConfigError(f"{block}.episodes", f"split {split!r} has {count} tasks, each taken once; got {episodes}")
    return count is not None


def names_of(baselines: Sequence[str | Mapping[str, Any]]) -> list[str]:
    """The names in a list of baselines, with or without settings."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in baselines]


def _fields(summary: Summary) -> dict[str, Any]:
    fields = dataclasses.asdict(summary)
    return {**fields, "metrics": dict(summary.metrics), "metrics_ci95": dict(summary.metrics_ci95)}
