"""Our searchers under a plain ``tune.Tuner``: the calls Tune makes, and a Tuner that is killed and restored."""

import json
import os
import signal
import subprocess
import sys
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
    for one in (first, copy, restored):
        one.on_trial_complete("open", None, error=True)
    assert go_on(first, 6, 10) == go_on(copy, 6, 10) == go_on(restored, 6, 10)
    other = TuneSearcher(TPE, SPACE, metric="loss", mode="min", seed=4)
    with pytest.raises(ResumeError, match="asked again"):
        other.restore(str(tmp_path / "state"))


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

folder, delay = Path(sys.argv[1]), float(sys.argv[2])

def train(config):
    with (folder / "trained").open("a") as file:
        file.write(f"{config['x']!r}\\n")
    time.sleep(delay)
    tune.report({"loss": (config["x"] - 0.3) ** 2})

os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "0"
ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
path = folder / "tuner"
if tune.Tuner.can_restore(str(path)):
    tuner = tune.Tuner.restore(str(path), trainable=train, resume_unfinished=True, restart_errored=True)
else:
    search = ms.TuneSearcher({"type": "optuna", "sampler": "tpe", "n_startup_trials": 4})
    limited = ConcurrencyLimiter(search, max_concurrent=1)
    tuner = tune.Tuner(
        train,
        param_space={"x": tune.uniform(0.0, 1.0)},
        tune_config=tune.TuneConfig(metric="loss", mode="min", search_alg=limited, num_samples=8),
        run_config=tune.RunConfig(name="tuner", storage_path=str(folder), verbose=0),
    )
results = tuner.fit()
(folder / "done.json").write_text(json.dumps([one.config["x"] for one in results]))
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
@pytest.mark.slow
def test_a_killed_tuner_is_restored_and_suggests_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    places = {}
    for name in ("whole", "killed"):
        folder = places[name] = tmp_path / name
        folder.mkdir()
        command = [sys.executable, str(script), str(folder), "0.5"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if name == "killed":
            while not (folder / "trained").exists() or len((folder / "trained").read_text().splitlines()) < 5:
                assert process.poll() is None
                try:
                    process.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            process = subprocess.Popen(command)
        assert process.wait(240) == 0
    done = {name: json.loads((folder / "done.json").read_text()) for name, folder in places.items()}
    assert len(done["killed"]) == len(set(done["killed"])) == 8
    assert sorted(done["killed"]) == sorted(done["whole"])
