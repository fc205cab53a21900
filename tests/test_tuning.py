"""Our searchers under a plain ``tune.Tuner``: the calls Tune makes, and a Tuner that is killed and restored."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import pytest
from ray import tune
from ray.tune.search import ConcurrencyLimiter

from metasearch.core.errors import ConfigError, ResumeError
from metasearch.execution.tune_searcher import ranges
from metasearch.tuning import TuneSearcher

SPACE = {"lr": {"float": [1e-4, 1.0], "log": True}, "net": {"width": {"choice": [8, 32]}, "depth": 2}}
TPE = {"type": "optuna", "sampler": "tpe", "n_startup_trials": 3}


def loss(config):
    return abs(config["lr"] - 0.1) + (config["net"]["width"] == 8)


def go_on(searcher, start, end):
    suggested = []
    for number in range(start, end):
        config = searcher.suggest(f"t{number}")
        suggested.append(config)
        searcher.on_trial_complete(f"t{number}", {"loss": loss(config), "done": True})
    return suggested


def test_suggestions_are_configurations_with_constants_in_place() -> None:
    configs = go_on(TuneSearcher(TPE, SPACE, metric="loss", mode="min"), 0, 12)
    assert all(
        1e-4 <= one["lr"] <= 1 and one["net"]["width"] in (8, 32) and one["net"]["depth"] == 2 for one in configs
    )
    assert min(map(loss, configs[6:])) < min(map(loss, configs[:3]))


def test_restored_and_unpickled_searchers_suggest_what_the_first_would_have(tmp_path: Path) -> None:
    first = TuneSearcher(TPE, SPACE, metric="loss", mode="min", seed=3)
    go_on(first, 0, 6)
    first.suggest("open")
    first.on_trial_complete("t-unknown", {"loss": 1.0})
    first.save(str(tmp_path / "state"))
    copy = cloudpickle.loads(cloudpickle.dumps(first))
    restored = TuneSearcher(TPE, SPACE, metric="loss", mode="min", seed=3)
    restored.restore(str(tmp_path / "state"))
    unaware = TuneSearcher(TPE, seed=3)  # as Tune restores it
    unaware.restore(str(tmp_path / "state"))
    for one in (first, copy, restored, unaware):
        one.on_trial_complete("open", None, error=True)
    assert go_on(first, 6, 10) == go_on(copy, 6, 10) == go_on(restored, 6, 10) == go_on(unaware, 6, 10)
    other = TuneSearcher(TPE, SPACE, metric="loss", mode="min", seed=4)
    with pytest.raises(ResumeError, match="asked again"):
        other.restore(str(tmp_path / "state"))


def test_a_space_with_objects_must_be_given_again(tmp_path: Path) -> None:
    first = TuneSearcher(TPE, {**SPACE, "layer": dict}, metric="loss", mode="min")
    go_on(first, 0, 2)
    first.save(str(tmp_path / "state"))
    with pytest.raises(ResumeError, match="space="):
        TuneSearcher(TPE).restore(str(tmp_path / "state"))
    again = TuneSearcher(TPE, {**SPACE, "layer": dict})
    again.restore(str(tmp_path / "state"))
    assert go_on(again, 2, 4) == go_on(first, 2, 4)


def test_what_is_to_be_raised_is_raised_and_what_is_no_number_fails() -> None:
    searcher = TuneSearcher(TPE, {"x": {"float": [0.0, 1.0]}}, metric="accuracy", mode="max")
    values = []
    for number in range(30):
        values.append(searcher.suggest(str(number))["x"])
        result = {0: None, 1: {"other": 1.0}, 2: {"accuracy": float("nan")}}.get(number, {"accuracy": values[-1]})
        searcher.on_trial_complete(str(number), result)
    assert sum(values[20:]) / 10 > 0.75


def test_tunes_own_ranges_are_understood() -> None:
    space = {
        "a": tune.uniform(0, 1),
        "b": tune.loguniform(1e-3, 1),
        "c": {"d": tune.quniform(0, 1, 0.25), "e": tune.choice(["x", None])},
        "f": tune.randint(1, 5),
        "g": tune.lograndint(1, 9),
        "h": tune.qrandint(0, 8, 4),
        "i": 7,
    }
    assert ranges(space) == {
        "a": {"float": [0.0, 1.0]},
        "b": {"float": [1e-3, 1.0], "log": True},
        "c": {"d": {"float": [0.0, 1.0], "step": 0.25}, "e": {"choice": ["x", None]}},
        "f": {"int": [1, 4]},
        "g": {"int": [1, 8], "log": True},
        "h": {"int": [0, 8], "step": 4},
        "i": 7,
    }
    with pytest.raises(ConfigError, match=r"n\.m: .*Normal"):
        ranges({"n": {"m": tune.randn(0, 1)}})


def test_wrong_use_is_explained() -> None:
    with pytest.raises(ConfigError, match="takes gradients"):
        TuneSearcher({"type": "gradient", "lr": 0.1}, SPACE)
    with pytest.raises(ConfigError, match="space: is not known"):
        TuneSearcher(TPE, metric="loss", mode="min").suggest("a")
    with pytest.raises(ConfigError, match="metric: is not known"):
        TuneSearcher(TPE, SPACE).suggest("a")


SCRIPT = """
import json, os, sys, time
from pathlib import Path
import ray
from ray import tune
from ray.tune.search import ConcurrencyLimiter
import metasearch as ms

folder = Path(sys.argv[1])

def train(config):
    trained = folder / "trained"
    with trained.open("a") as file:
        file.write(f"{config['x']!r}\\n")
    while (folder / "hold").exists() and len(trained.read_text().splitlines()) == 5:
        time.sleep(0.05)
    tune.report({"loss": (config["x"] - 0.3) ** 2})

os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "0"
for attempt in range(4):
    try:
        ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        break
    except Exception:  # on a machine that is busy, Ray gives its own processes too little time
        ray.shutdown()
path = folder / "tuner"
if tune.Tuner.can_restore(str(path)):
    tuner = tune.Tuner.restore(str(path), trainable=train, resume_unfinished=True, restart_errored=True)
else:
    search = ms.TuneSearcher({"type": "optuna", "sampler": "tpe", "n_startup_trials": 3})
    limited = ConcurrencyLimiter(search, max_concurrent=1)
    tuner = tune.Tuner(
        train,
        param_space={"x": tune.uniform(0.0, 1.0)},
        tune_config=tune.TuneConfig(metric="loss", mode="min", search_alg=limited, num_samples=8, reuse_actors=True),
        run_config=tune.RunConfig(name="tuner", storage_path=str(folder), verbose=0),
    )
results = tuner.fit()
(folder / "done.json").write_text(json.dumps([[one.config["x"], one.metrics["loss"]] for one in results]))
"""


@pytest.mark.ray
def test_a_tuner_with_a_concurrency_limit_uses_it(local_ray: None, tmp_path: Path) -> None:
    search = ConcurrencyLimiter(TuneSearcher(TPE), max_concurrent=2)
    tuner = tune.Tuner(
        lambda config: tune.report({"loss": loss(config)}),
        param_space={"lr": tune.loguniform(1e-4, 1.0), "net": {"width": tune.choice([8, 32]), "depth": 2}},
        tune_config=tune.TuneConfig(metric="loss", mode="min", search_alg=search, num_samples=3),
        run_config=tune.RunConfig(name="plain", storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    assert len(results) == 3
    assert results.num_errors == 0
    assert all(one.config["net"]["depth"] == 2 for one in results)
    saved = [path for path in (tmp_path / "plain").rglob("*") if "searcher" in path.name]
    assert saved, "Tune saves the searcher's state"


@pytest.mark.ray
def test_a_killed_tuner_is_restored_and_suggests_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "hold").touch()  # the fifth trial does not end before it is gone
    process = started(tmp_path)
    wait_for(process, tmp_path, lambda: len(lines(tmp_path / "trained")) == 5 and asks_on_disk(tmp_path) == 5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "done.json").exists()
    (tmp_path / "hold").unlink()
    process = started(tmp_path)
    wait_for(process, tmp_path, lambda: process.poll() == 0)
    done = json.loads((tmp_path / "done.json").read_text())
    assert sorted(done) == sorted(undisturbed(8))
    assert 8 < len(lines(tmp_path / "trained")) <= 10  # what had been reported before the kill is not trained again


def undisturbed(trials: int) -> list[list[float]]:
    """Points and losses of a search in which nothing happens, one trial after the other and without Tune's help."""
    search = TuneSearcher({"type": "optuna", "sampler": "tpe", "n_startup_trials": 3})
    search.set_search_properties("loss", "min", {"x": tune.uniform(0.0, 1.0)})
    found = []
    for number in range(trials):
        x = search.suggest(str(number))["x"]
        found.append([x, (x - 0.3) ** 2])
        search.on_trial_complete(str(number), {"loss": found[-1][1]})
    return found


def started(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "output").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, str(folder / "script.py"), str(folder)], stdout=output, stderr=subprocess.STDOUT
        )


def wait_for(process: subprocess.Popen[bytes], folder: Path, come: Callable[[], bool], limit_s: float = 240) -> None:
    end = time.monotonic() + limit_s
    while not come():
        if process.poll() not in (None, 0) or time.monotonic() > end:
            process.kill()
            process.wait()
            pytest.fail((folder / "output").read_text()[-3000:] or "the script printed nothing")
        time.sleep(0.1)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def asks_on_disk(folder: Path) -> int:
    """How many suggestions the newest state has that Tune saved of the searcher."""
    saved = [path for path in (folder / "tuner").glob("*") if path.name.startswith("searcher-state")]
    if not saved:
        return 0
    newest = max(saved, key=lambda path: path.stat().st_mtime)
    return sum(kind == "ask" for kind, *_ in json.loads(newest.read_text())["events"])
