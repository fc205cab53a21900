"""The same configuration and seed give the same L(phi) sequence, bit for bit, wherever the calls run."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from records import content, sequence

from metasearch import execution
from metasearch.resolution import resolve
from metasearch.running import run

PARTS = Path(__file__).parent / "parts"


@pytest.fixture
def shuffled(tiny: dict[str, Any]) -> dict[str, Any]:
    """More shards than workers, and delays that let them end out of order."""
    tiny["tasks"]["type"] = "slow_tasks:SlowSinusoid"
    tiny["evaluation"] = {"type": "episodes", "estimator": "backprop", "tasks": 14, "shard": 2}
    tiny["test"] = {"episodes": 6, "shard": 2, "ensemble": 2, "baselines": ["random"]}
    return tiny


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tiny: dict[str, Any], tmp_path: Path) -> None:
    paths = [run(resolve({**tiny, "seed": seed}), root=tmp_path).directory.path for seed in (0, 0, 1)]
    assert content(paths[0]) == content(paths[1])
    assert sequence(paths[0]) != sequence(paths[2])


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_inline_and_any_number_of_actors_agree_bit_for_bit(
    workers: int, shuffled: dict[str, Any], tmp_path: Path
) -> None:
    inline = run(resolve(shuffled, PARTS), root=tmp_path / "inline").directory.path
    shuffled["execution"] = {"type": "actors", "workers": workers}
    actors = run(resolve(shuffled, PARTS), root=tmp_path / "actors").directory.path
    assert content(actors) == content(inline)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_an_actor_killed_on_the_way_changes_nothing(
    shuffled: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = run(resolve(shuffled, PARTS), root=tmp_path / "inline").directory.path
    killed: list[int] = []
    submit = execution.Actors.submit

    def kill_one(self: Any, call: Any) -> None:
        submit(self, call)
        if call.proposal == 3 and call.index == 4 and not killed:
            killed.append(self.pids()[0])
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(execution.Actors, "submit", kill_one)
    shuffled["execution"] = {"type": "actors", "workers": 2}
    actors = run(resolve(shuffled, PARTS), root=tmp_path / "actors").directory.path
    assert killed
    assert content(actors) == content(inline)


def test_shards_and_workers_do_not_change_which_tasks_are_sampled(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Another shard size is another order of sums: equal to rounding, not to the bit."""
    values = []
    for shard in (3, 4, 12):
        tree = {**tiny, "evaluation": {**tiny["evaluation"], "shard": shard}, "budget": {"steps": 1}, "test": None}
        values.append(sequence(run(resolve(tree), root=tmp_path).directory.path)[0][1])
    first, *others = (float.fromhex(value) for value in values)
    assert others == pytest.approx([first, first], rel=1e-6)
