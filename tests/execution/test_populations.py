"""Population-based training: what is proposed, by what model, and whole populations under Tune."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from execution_programs import Program, drain

from metasearch.core.errors import ConfigError, ExecutionError
from metasearch.core.space import Choice, Float, Int, Space
from metasearch.core.values import Call, Change, Measurement, Phi, Report
from metasearch.execution import Trials
from metasearch.execution.bandits import Gains, Process
from metasearch.execution.explore import perturb
from metasearch.execution.schedulers import parse_scheduler

SPACE = Space(
    {
        "lr": Float(1e-3, 1.0, log=True),
        "width": Int(4, 64, step=4),
        "share": Float(0.0, 0.9, step=0.3),
        "rule": Choice(("a", "b", "c")),
        "rule.beta": Float(0.0, 1.0, when={"rule": ("c",)}),
    }
)
CHOICES = {"lr": 0.1, "width": 16, "share": 0.3, "rule": "a"}


def test_perturbed_choices_are_neighbours_inside_the_space() -> None:
    seen = [perturb(SPACE, CHOICES, seed, resample=0.0, factors=(0.5, 2.0)) for seed in range(60)]
    for one in seen:
        SPACE.validate(one)
    assert {round(one["lr"], 6) for one in seen} == {0.05, 0.2}
    assert {one["width"] for one in seen} == {8, 32}
    assert {one["share"] for one in seen} == {0.0, 0.6}
    assert {one["rule"] for one in seen} == {"a", "b"}  # "a" is the first of its list
    edge = perturb(SPACE, {**CHOICES, "lr": 1.0, "width": 64, "rule": "b"}, 3, resample=0.0, factors=(0.5, 2.0))
    assert edge["lr"] <= 1.0


def test_resampled_choices_come_from_the_prior_and_draws_depend_on_the_seed_alone() -> None:
    seen = [perturb(SPACE, CHOICES, seed, resample=1.0, factors=(0.8, 1.2)) for seed in range(200)]
    assert np.mean(np.log10([one["lr"] for one in seen])) == pytest.approx(-1.5, abs=0.2)
    assert {one["rule"] for one in seen} == {"a", "b", "c"}
    assert seen[5] == perturb(SPACE, CHOICES, 5, resample=1.0, factors=(0.8, 1.2))


def test_the_process_predicts_what_the_equations_say() -> None:
    draws = np.random.default_rng(0)
    times, features, targets = draws.uniform(0, 4, 12), draws.uniform(0, 1, (12, 2)), draws.normal(size=12)
    process = Process(times, features, targets)
    y = np.clip((targets - targets.mean()) / targets.std(), -2, 2)

    def kernel(t: Any, a: Any, s: Any, b: Any) -> Any:
        gap = np.array([[abs(i - j) for j in s] for i in t])
        square = np.array([[((p - q) ** 2).sum() for q in b] for p in a])
        near = np.exp(-square / (2 * process.length**2))
        return process.variance * (1 - process.fading) ** (gap / 2) * near

    where, at = np.array([4.0, 5.0]), draws.uniform(0, 1, (2, 2))
    full = kernel(times, features, times, features) + (process.noise + 1e-8) * np.eye(12)
    cross = kernel(where, at, times, features)
    mean, deviation = process.predict(where, at)
    np.testing.assert_allclose(mean, cross @ np.linalg.solve(full, y), atol=1e-9)
    variance = np.diag(kernel(where, at, where, at) - cross @ np.linalg.solve(full, cross.T))
    np.testing.assert_allclose(deviation**2, variance, atol=1e-9)


def test_gains_propose_what_has_gained_most() -> None:
    space = Space({"lr": Float(1e-4, 1.0, log=True), "rule": Choice(("a", "b"))})
    gains = Gains(space, 1)
    draws = np.random.default_rng(1)
    score = dict.fromkeys(range(6), 0.0)
    gains.observe(1, {m: {"lr": 0.1, "rule": "a"} for m in score}, score)
    for step in range(2, 8):
        gains.settle(step - 1, {m: m for m in score})
        choices = {m: {"lr": float(10 ** draws.uniform(-4, 0)), "rule": "a"} for m in score}
        score = {m: score[m] + 1 - abs(np.log10(one["lr"]) + 2) for m, one in choices.items()}  # best at 0.01
        gains.observe(step, choices, score)
    proposed = [gains.propose(0, {"lr": 0.5, "rule": "b"}, seed) for seed in range(3)]
    assert 10**-3 < proposed[0]["lr"] < 10**-1
    assert all(one["rule"] == "b" for one in proposed)  # options stay as they are
    assert len({one["lr"] for one in proposed}) == 3  # the running ones are not proposed again


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "pbt", "population": 1, "max": 4}, r"scheduler\.population"),
        ({"type": "pb2", "population": 4, "max": 4, "resample": 0.5}, r"scheduler\.resample: is a setting of pbt"),
        ({"type": "pbt", "population": 4, "max": 4, "factors": [1.1, 1.2]}, r"scheduler\.factors"),
        ({"type": "pbt", "population": 4}, r"scheduler\.max: is required"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_scheduler(settings)


class Climbers(Program):
    """Members climb by their rate, a step at a time; the sum is the checkpoint."""

    def climb(self, call: Call, trial: Any) -> Measurement:
        begun, height = 0, 0.0
        if trial.restored is not None:
            begun, height = (float(one) for one in (trial.restored / "state").read_text().split())
        for step in range(int(begun) + 1, 7):
            height += call.phi.choices["rate"]
            if not call.extra.get("careless"):
                (trial.checkpoint() / "state").write_text(f"{step} {height!r}")
            trial.report(step, L=-height)
        value = np.array([-height])
        return Measurement(value, value)


RATES = Space({"rate": Float(0.01, 1.0)})


def climber(member: int, **extra: Any) -> Call:
    phi = Phi(choices={"rate": (0.05, 0.1, 0.15, 0.6)[member]})
    return Call(member, 0, "climb", phi, (), member, extra={"trial": True, **extra})


class Recorder:
    """Reports and changes in the order of their arrival."""

    def __init__(self, trials: Trials, calls: list[Call]) -> None:
        self.reports: dict[int, list[Report]] = {one.proposal: [] for one in calls}
        self.changes: list[Change] = []
        self.ends: dict[int, float] = {}
        for one in calls:
            trials.submit(one)
        while len(self.ends) < len(calls):
            for one, outcome in trials.wait(60):
                if isinstance(outcome, Report):
                    self.reports[one.proposal].append(outcome)
                elif isinstance(outcome, Change):
                    self.changes.append(outcome)
                else:
                    assert isinstance(outcome, Measurement), outcome
                    self.ends[one.proposal] = float(outcome.query[0])


@pytest.mark.ray
@pytest.mark.parametrize("kind", ["pbt", pytest.param("pb2", marks=pytest.mark.slow)])
def test_the_worst_go_on_from_the_best_and_a_resumed_population_ends_like_the_first(
    kind: str, local_ray: None, tmp_path: Path
) -> None:
    settings = {"type": kind, "population": 4, "max": 6, "interval": 2}
    calls = [climber(member) for member in range(4)]
    with Trials(Climbers, 2, storage=tmp_path, scheduler=settings, space=RATES, seed=5) as trials:
        first = Recorder(trials, calls)
    assert [change.step for change in first.changes] == [2, 4]
    assert [one.step for one in first.reports[0]] == [1, 2, 3, 4, 5, 6]
    moved = first.changes[0].members[0]
    assert moved.source == 3
    assert first.changes[0].members[3].choices == {"rate": 0.6}
    assert -first.reports[0][2].metrics["L"] == pytest.approx(2 * 0.6 + moved.choices["rate"])
    assert first.ends[0] < -6 * 0.05 - 1.0
    if kind == "pb2":
        return  # below, resuming is the same code
    past = {number: [one for one in reports if one.step <= 3] for number, reports in first.reports.items()}
    again = []
    for call in calls:
        member = first.changes[0].members[call.proposal]
        phi = Phi(choices=member.choices)
        extra = {**call.extra, "restored": member.checkpoint, "after": 2}
        again.append(Call(call.proposal, 0, "climb", phi, (), call.proposal, extra=extra))
    # The first population ran to its end; what its first change names must still be there.
    with Trials(Climbers, 1, storage=tmp_path, scheduler=settings, space=RATES, seed=5) as trials:
        trials.restore_population(4, first.changes[:1], past)
        resumed = Recorder(trials, again)
    assert resumed.changes == first.changes[1:]
    assert resumed.ends == first.ends
    assert [one.step for one in resumed.reports[1]] == [3, 4, 5, 6]


@pytest.mark.ray
def test_members_that_save_nothing_are_told_what_to_do(local_ray: None, tmp_path: Path) -> None:
    settings = {"type": "pbt", "population": 2, "max": 6}
    calls = [climber(member, careless=True) for member in range(2)]
    with (
        Trials(Climbers, 2, storage=tmp_path, scheduler=settings, space=RATES, seed=5) as trials,
        pytest.raises(ExecutionError, match=r"write one into trial.checkpoint\(\)"),
    ):
        drain(trials, calls)
