"""What the driver itself costs: python experiments/benchmarks/driver_cost.py [--mlflow 300] [--tune 1000]

Drives searches over one number whose evaluations cost nothing, so that all the time is the driver's: ask, two
records, tell. Prints milliseconds an evaluation at each length of search; they should be equal, since
nothing may grow with the journal. `--mlflow` adds a search that is shown in MLflow (SQLite, in a temporary folder),
without and with a child run for each proposal; the last upload is included, the making of an empty database is not.

`--tune` compares that many evaluations that return at once, on two workers of a local Ray: Ray Tune with OptunaSearch
and `reuse_actors`, and this package with the same sampler, without and with MLflow. `--trials` compares that many
training runs of five seconds (of sleep), from the first proposal to the last record.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from metasearch.controller import Controller, Plan
from metasearch.core.contracts import Executor, Searcher
from metasearch.core.space import Float, Space
from metasearch.core.values import Call, Measurement, Phi
from metasearch.objective import TrialCalls
from metasearch.searchers import Optuna, Random
from metasearch.tracking import Journal, RunDirectory
from metasearch.tracking.mlflow import MlflowView

SPACE = Space({"x": Float(-1.0, 1.0)})
WORKERS = 2
NAP_S = 5.0


class Direct(TrialCalls):
    """One call a proposal, as for a training run, but answered as a function call."""

    def calls(self, proposal: int, phi: Any, carried: Any, seed: int) -> list[Call]:
        return [Call(proposal, 0, "square", phi, (seed,), seed)]


class Square:
    """What a worker holds: L = x^2, at once."""

    def measure(self, call: Call) -> Measurement:
        value = np.array([call.phi.choices["x"] ** 2])
        return Measurement(value, value)

    def run(self, call: Call, trial: object) -> Measurement:
        raise TypeError("this program answers function calls only")


class Instant:
    """An executor that answers in the moment it is asked."""

    workers = 1

    def __init__(self) -> None:
        self._queue: deque[Call] = deque()
        self._program = Square()

    def put(self, value: Any) -> Any:
        return value

    def submit(self, call: Call) -> None:
        self._queue.append(call)

    def wait(self, timeout_s: float | None = None) -> list[Any]:
        call = self._queue.popleft()
        return [(call, self._program.measure(call))]

    def close(self) -> None:
        self._queue.clear()


@contextmanager
def empty_store(folder: Path) -> Iterator[str]:
    """The URI of a database that has its tables already: making them takes seconds, once and for all."""
    from mlflow.tracking import MlflowClient

    from metasearch.tracking.mlflow_store import quiet_mlflow, short_timeouts

    quiet_mlflow()
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with short_timeouts():
        MlflowClient(tracking_uri=uri).search_experiments()
    before = Path.cwd()
    os.chdir(folder)  # artifacts go below the working directory
    try:
        yield uri
    finally:
        os.chdir(before)


def milliseconds(
    evaluations: int,
    *,
    children: str | None = None,
    executor: Executor | None = None,
    searcher: Searcher | None = None,
    in_flight: int = 1,
) -> float:
    """Time of one evaluation of a search, from the first ask until everything is on disk.

    Args:
        evaluations: length of the search.
        children: which proposals get an MLflow run of their own; None switches MLflow off.
        executor: where evaluations are computed.
        searcher: what proposes; random search if None.
        in_flight: proposals evaluated at once.
    """
    searcher = searcher or Random(Random.Config())
    searcher.setup(Phi(), SPACE, 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = RunDirectory.create(folder / "runs", "driver-cost", "{}\n")
        with run.lock(), Journal.open(run.journal_path) as journal:
            journal.append("start", run=run.id, name="driver-cost", versions={}, workers=1, hostname="")
            store: Any = nullcontext() if children is None else empty_store(folder)
            with store as uri:
                view = (
                    None
                    if uri is None
                    else MlflowView(uri, "driver-cost", run.id, run.path, config={}, children=children or "none")
                )
                controller = Controller(
                    searcher,
                    Direct(),
                    executor or Instant(),
                    journal,
                    run,
                    Plan(0, in_flight=in_flight, evaluations=evaluations),
                    on_record=None if view is None else lambda _: view.sync() and None,
                )
                started = time.perf_counter()
                controller.run()
                journal.append("end", status="finished", reason="")
                if view is not None and not view.close():
                    raise SystemExit("MLflow has not got everything; this figure would be wrong")
                return 1e3 * (time.perf_counter() - started) / evaluations


def against_tune(evaluations: int) -> None:
    """Prints how long evaluations that return at once take under Ray Tune, and here with the whole record."""
    from metasearch.execution import Actors, start_ray

    session = start_ray(WORKERS)
    try:
        tune = raw_tune(evaluations)
        print(f"Ray Tune, OptunaSearch, reuse_actors: {tune:.2f} ms an evaluation")
        with Actors(Square, WORKERS) as actors:
            actors.pids()  # they are up
            for name, children in (("without MLflow", None), ("with a child run each", "all")):
                optuna = Optuna(Optuna.Config(sampler="tpe", in_flight=WORKERS))
                own = milliseconds(evaluations, children=children, executor=actors, searcher=optuna, in_flight=WORKERS)
                print(f"metasearch, the same sampler, {name}: {own:.2f} ms, {tune / own:.1f} x as fast")
    finally:
        session.close()


def nap(config: dict[str, Any], trial: Any) -> float:
    """A training run of five seconds."""
    time.sleep(NAP_S)
    return float(config["x"] ** 2)


def trials_against_tune(trials: int) -> None:
    """Prints how long training runs of five seconds take under Ray Tune, and here."""
    import metasearch as ms
    from metasearch.execution import start_ray
    from metasearch.running import Silent
    from metasearch.tracking import read

    session = start_ray(WORKERS)
    try:
        tune = raw_tune(trials, NAP_S) * trials / 1e3
    finally:
        session.close()
    print(f"Ray Tune, OptunaSearch, reuse_actors: {trials} trials of {NAP_S:g} s in {tune:.1f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = ms.search(
            name="naps",
            objective=nap,
            space={"x": {"float": [-1.0, 1.0]}},
            searcher={"type": "optuna", "sampler": "tpe", "in_flight": WORKERS},
            budget={"evaluations": trials},
            tracking={"mlflow": f"sqlite:///{folder}/mlflow.db", "report": False},
            workers=WORKERS,
            runs=folder,
            listener=Silent(),
        )
        records = read(found.directory.journal_path)
    asks = [one["elapsed"] for one in records if one["type"] == "ask"]
    ends = [one["elapsed"] for one in records if one["type"] == "evaluation"]
    if len(ends) != trials:
        raise SystemExit(f"{len(ends)} of {trials} runs ended; this figure would be wrong")
    own = ends[-1] - asks[0]
    print(
        f"metasearch, the same sampler, with a child run each in MLflow: {own:.1f} s, {own / tune:.2f} of Tune's time"
    )


def raw_tune(evaluations: int, seconds: float = 0.0) -> float:
    """Milliseconds an evaluation of Ray Tune as its documentation shows it, quiet and with actors kept."""
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    class Trial(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.x = config["x"]

        def step(self) -> dict[str, Any]:
            time.sleep(seconds)
            return {"L": self.x**2, "done": True}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.x = new_config["x"]
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            return None

        def load_checkpoint(self, checkpoint: Any) -> None:
            return None

    search: Callable[..., Any] = OptunaSearch
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            Trial,
            param_space={"x": tune.uniform(-1.0, 1.0)},
            tune_config=tune.TuneConfig(
                metric="L",
                mode="min",
                search_alg=ConcurrencyLimiter(search(seed=0), max_concurrent=WORKERS),
                num_samples=evaluations,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        started = time.perf_counter()
        found = tuner.fit()
        taken = time.perf_counter() - started
    if len(found) != evaluations or found.errors:
        raise SystemExit(f"Tune ended {len(found)} of {evaluations} trials; this figure would be wrong")
    return 1e3 * taken / evaluations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[10, 1_000, 10_000], metavar="N")
    parser.add_argument(
        "--mlflow", type=int, nargs="?", const=300, metavar="N", help="also N evaluations shown in MLflow"
    )
    parser.add_argument(
        "--tune", type=int, nargs="?", const=1_000, metavar="N", help="also N evaluations against Ray Tune"
    )
    parser.add_argument(
        "--trials", type=int, nargs="?", const=20, metavar="N", help="also N training runs of 5 s against Ray Tune"
    )
    options = parser.parse_args()
    milliseconds(10)  # the first search also pays for imports
    for n in options.evaluations:
        print(f"{n:>6,} evaluations, without MLflow: {milliseconds(n):.2f} ms each", flush=True)
    if options.mlflow:
        for name, children in (("no child runs", "none"), ("a child run each", "all")):
            cost = milliseconds(options.mlflow, children=children)
            print(f"{options.mlflow:>6,} evaluations, MLflow with {name}: {cost:.2f} ms each", flush=True)
    if options.tune:
        against_tune(options.tune)
    if options.trials:
        trials_against_tune(options.trials)


if __name__ == "__main__":
    main()
