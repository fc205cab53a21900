"""The blocks of an experiment file, with their defaults.

Parts (tasks, learner, searchers ...) bring their own settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from metasearch.core.config import Config
from metasearch.core.errors import ConfigError
from metasearch.core.objectives import Direction, Limit

__all__ = [
    "Budget",
    "Checkpoints",
    "Compose",
    "Derive",
    "Execution",
    "ExperimentFile",
    "Given",
    "Numerics",
    "Paper",
    "Retrain",
    "Test",
    "Tracking",
    "Validation",
    "teacher_of",
    "weights_of",
    "without_weights",
]


class Validation(Config):
    """Held-out evaluations on the way; never told to a searcher.

    Args:
        every: outer steps between two.
        episodes: tasks in each; always the same ones.
        select: what the reported phi is the best of: ``L`` (lowest) or a metric (highest).
        split: where its tasks come from.
        shard: tasks in one call.
    """

    every: PositiveInt = 100
    episodes: PositiveInt = 100
    select: str = "L"
    split: str = "validation"
    shard: PositiveInt = 25


class Derive(Config):
    """How one architecture is drawn from a supernet.

    A mixture keeps the weightiest operation of each place. Where a searcher chose, the candidates are its likeliest
    choices and some that it draws; the one with the lowest L on the validation split is kept.

    Args:
        sample: candidates that are drawn.
        episodes: tasks of the validation split that each is measured on.
    """

    sample: NonNegativeInt = 20
    episodes: PositiveInt = 1


class Retrain(Config):
    """How an architecture is trained again for the test, on new weights; each episode of the test is a training.

    Args:
        learner: settings in place of those of the search (steps, batch, slots ...). An architecture has weights of its
            own then, and starts at random, unless this says otherwise.
    """

    learner: dict[str, Any] = Field(default_factory=dict)


class Test(Config):
    """The final figure, taken once, after the stop.

    Args:
        episodes: tasks.
        baselines: names, or ``{name: settings}``, each under the same protocol.
        split: where its tasks come from.
        shard: tasks in one call.
        refit: changes of the tasks, for example ``{tasks.train_on: [train, validation]}``, under which phi is trained
            once more from the start, for as many steps as validation found best; that phi is reported and tested, and
            the one that validation selected is tested beside it (``before_refit``).
        ensemble: number of phis, the best by validation, whose mean prediction is measured besides, on the same tasks
            (``ensemble_of_5``; see :mod:`metasearch.evaluation.ensemble`). The search's own figure stays that of one.
        derive: how a network is drawn from a supernet, before the test.
        retrain: how what was found is trained again: :class:`Retrain` where evaluations are over tasks; training runs
            may say otherwise.
    """

    episodes: PositiveInt = 600
    baselines: tuple[str | dict[str, Any], ...] = ()
    split: str = "test"
    shard: PositiveInt = 25
    refit: dict[str, Any] | None = None
    ensemble: PositiveInt | None = None
    derive: Derive | None = None
    retrain: dict[str, Any] | None = None


class Budget(Config):
    """When to stop: whichever comes first.

    Args:
        steps: outer steps (asks that were told).
        evaluations: evaluations of L.
        seconds: driving time, resumes included.
    """

    steps: PositiveInt | None = None
    evaluations: PositiveInt | None = None
    seconds: PositiveFloat | None = None

    @model_validator(mode="after")
    def _some(self) -> Budget:
        if self.steps is None and self.evaluations is None and self.seconds is None:
            raise ValueError("give at least one of steps, evaluations, seconds")
        return self


class Execution(Config):
    """Where the work runs.

    Args:
        type: ``actors`` (Ray) or ``inline`` (in this process); a training run on ``actors`` is a Ray Tune trial.
        workers: number of actors, or of trials at a time.
        gpus_per_worker: GPUs for each, fractions included.
        cpus_per_worker: CPU cores for each.
        address: Ray cluster to join; None starts one on this machine.
        inner_workers: further CPU cores that each trial reserves, for a nested search that starts workers of its own.
    """

    type: Literal["actors", "inline"] = "actors"
    workers: PositiveInt = 1
    gpus_per_worker: NonNegativeFloat = 0.0
    cpus_per_worker: PositiveFloat = 1.0
    address: str | None = None
    inner_workers: NonNegativeInt = 0


class Numerics(Config):
    """What the numbers depend on besides the seed; resolved once by the driver and recorded.

    Args:
        device: ``auto`` means ``cuda`` where workers have GPUs, else ``cpu``.
        dtype: floating-point type of phi, theta and the data.
        tf32: whether matrix products on a GPU may use TF32.
        threads: threads of each worker.
        compile: ``auto``, ``never`` or ``always``: trace and compile meta-gradients.
        deterministic: use torch's deterministic algorithms, and let searchers see results in the order of their asks.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    tf32: bool = False
    threads: PositiveInt = 1
    compile: Literal["auto", "never", "always"] = "auto"
    deterministic: bool = True


class Tracking(Config):
    """The MLflow view.

    Args:
        mlflow: False switches it off; a text is the tracking URI; True means ``MLFLOW_TRACKING_URI`` or a local
            database.
        experiment: name of the MLflow experiment; None means the name of the run.
        children: which proposals of a search over choices get a child run: ``all``, ``none``, ``auto`` (all up to
            10,000 proposals) or ``{best: N}``.
        report: whether report.html is written at the end.
    """

    mlflow: bool | str = True
    experiment: str | None = None
    children: Literal["auto", "all", "none"] | dict[Literal["best"], PositiveInt] = "auto"
    report: bool = True


class Checkpoints(Config):
    """How often the driver can be continued from.

    Args:
        every: outer steps between two checkpoints; None means every validation, or every 100 steps.
    """

    every: PositiveInt | None = None


class Compose(Config):
    """How several searchers share one phi.

    Args:
        type: ``joint``: choices are proposed, tensors take a gradient at those choices, one L is told to all.
        proposals_per_step: proposals evaluated before the searchers are told.
    """

    type: Literal["joint"] = "joint"
    proposals_per_step: PositiveInt = 1


class Paper(Config):
    """The published figure that stands beside the result.

    Args:
        method: what was run.
        value: the figure, in the unit of ``metric``.
        interval: its half-width, if one was given.
        metric: name of the metric (``accuracy`` in percent).
        source: reference.
        differences: where this experiment departs from the publication, one line each.
    """

    method: str
    value: float
    interval: float | None = None
    metric: str = "accuracy"
    source: str = ""
    differences: tuple[str, ...] = ()


class ExperimentFile(Config):
    """A whole experiment.

    Args:
        name: name of the run and, by default, of the MLflow experiment.
        tasks: p(T): ``type`` and its settings.
        learner: F_phi: ``type`` or ``recipe`` and its settings.
        searchers: outer decisions by name (``searcher:`` in a file is short for one).
        evaluation: what one evaluation computes.
        scheduler: what stops training runs early.
        objectives: figures (``L``, metrics, ``seconds``), each ``min`` or ``max``, for searches with several
            objectives; none means that L is lowered.
        constraints: limits on figures, ``{parameters: {max: 50000}}``; what breaks one is not selected.
        compose: how several searchers share one phi.
        seeds, variants: one file, several runs: seeds, and named overrides.
        imports: modules to import first (they may register parts).
        paper: the published figure beside the result.
    """

    name: str = Field(default="search", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str = ""
    tasks: Any = None
    learner: Any = None
    searchers: dict[str, Any] = Field(default_factory=dict)
    evaluation: dict[str, Any] = Field(default_factory=lambda: {"type": "episodes"})
    scheduler: dict[str, Any] | None = None
    objectives: dict[str, Direction] | None = None
    constraints: dict[str, Limit] | None = None
    compose: Compose = Compose()
    validation: Validation | None = None
    test: Test | None = None
    budget: Budget
    execution: Execution = Execution()
    numerics: Numerics = Numerics()
    tracking: Tracking = Tracking()
    checkpoints: Checkpoints = Checkpoints()
    imports: tuple[str, ...] = ()
    paper: Paper | None = None
    seeds: tuple[NonNegativeInt, ...] | None = None
    variants: dict[str, dict[str, Any]] | None = None
    seed: NonNegativeInt = 0

    @field_validator("searchers")
    @classmethod
    def _at_least_one(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not value:
            raise ConfigError("", "at least one searcher is needed, for example {type: gradient, lr: 1.0e-3}")
        return value


class Given(NamedTuple):
    """Weights that a part of phi starts from."""

    key: str
    """Where the experiment names them."""
    slot: str
    """The part of phi: ``initialization``, ``update_rule``, or the ``embedding`` of a metric learner or a reader."""
    path: str


_GIVEN = {
    ("slots", "initialization"): "initialization",
    ("slots", "update_rule"): "update_rule",
    ("model",): "embedding",
    ("embedding",): "embedding",
}
"""Blocks of a learner that may have ``from``, and the part of phi which then starts from there."""


def weights_of(learner: Any) -> tuple[Given, ...]:
    """Weights that parts of a learner's block start from."""
    found = []
    for places, slot in _GIVEN.items():
        block = learner
        for place in places:
            block = block.get(place) if isinstance(block, Mapping) else None
        if isinstance(block, Mapping) and block.get("from") is not None:
            found.append(Given(".".join(("learner", *places, "from")), slot, str(block["from"])))
    return tuple(found)


def teacher_of(evaluation: Any) -> Given | None:
    """The phi whose update rule is imitated, if the teacher of the estimator ``imitation`` comes from one.

    Raises:
        ConfigError: if settings of a teacher stand beside it.
    """
    block = evaluation if isinstance(evaluation, Mapping) and evaluation.get("type", "episodes") == "episodes" else {}
    estimator = block.get("estimator")
    if not isinstance(estimator, Mapping) or estimator.get("type") != "imitation":
        return None
    teacher = estimator.get("teacher")
    if not isinstance(teacher, Mapping) or teacher.get("from") is None:
        return None
    beside = [str(name) for name in teacher if name not in ("from", "hash")]
    if beside or estimator.get("learned") is not None:
        raise ConfigError(
            "evaluation.estimator.teacher",
            f"a teacher `from` a phi has its settings and what it learned from there, got "
            f"{', '.join(beside) or 'learned'} beside it; give it alone: "
            + (
                '--set "evaluation.estimator.teacher={from: RUN}"'
                if beside
                else "--set evaluation.estimator.learned=null"
            ),
        )
    return Given("evaluation.estimator.teacher.from", "update_rule", str(teacher["from"]))


def without_weights(learner: Mapping[str, Any]) -> dict[str, Any]:
    """A learner's block without the weights that it starts from: what a learner is built from."""
    result = dict(learner)
    for *above, last in _GIVEN:
        block = result
        for place in above:
            if not isinstance(block.get(place), Mapping):
                break
            block[place] = dict(block[place])
            block = block[place]
        else:
            inner = block.get(last)
            if isinstance(inner, Mapping) and "from" in inner:
                block[last] = {key: value for key, value in inner.items() if key != "from"}
    return result
