"""Training runs as Ray Tune trials: Tune places them, repeats lost ones and stops bad ones; the caller keeps asking.

Tune's loop runs in a thread. It finds its trials through a searcher that hands out what was submitted, and its results
leave through a callback. Nothing of Tune's is kept: the record of reports is the caller's, checkpoints are the training
runs' own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

import cloudpickle
from ray import tune
from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.experiment.trial import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler

from metasearch.core.errors import ExecutionError, MetasearchError
from metasearch.core.space import Space
from metasearch.core.values import Call, Change, Report
from metasearch.execution.cluster import require_resources, start_ray, worker_environment
from metasearch.execution.desk import Closed, Desk, Flight, Outcome, Queue, Results
from metasearch.execution.packing import Shared, pack, resolved
from metasearch.execution.populations import PopulationScheduler, population_scheduler
from metasearch.execution.schedulers import HyperBand, Population, feed, make_scheduler, parse_scheduler
from metasearch.execution.trainable import training_class

if TYPE_CHECKING:
    from types import TracebackType

    from metasearch.core.contracts import Program

__all__ = ["Trials"]

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a run that ends before its first report has no metrics
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's snapshots are never read
    "TUNE_MAX_PENDING_TRIALS_PG": "1024",  # the desk decides how many are pending
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are answered as failures
    "RAY_AIR_NEW_OUTPUT": "0",  # the newer reporter prints tables however little is asked for
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean in a trial what they mean outside
}


class Trials:
    """Runs training runs as Ray Tune trials.

    :meth:`wait` gives each report once, in order, and at the end a measurement or a failure. A trial whose worker dies
    goes on from its newest checkpoint. One that the scheduler stops ends with a measurement of what it reported last,
    with the metric ``stopped`` 1.0. If the head node dies, Ray ends this process without an exception.

    A call is a training run if its ``extra`` holds ``trial: True``. ``extra["restored"]`` (a checkpoint, relative to
    ``storage``) and ``extra["after"]`` (its last delivered step) continue a run that an earlier process began.

    Args:
        setup: makes the program, once a worker.
        workers: how many trials run at a time.
        scheduler: ``{type: asha | hyperband | median | pbt | pb2 | none, metric, mode, ...}``, as the classes of
            :mod:`~metasearch.execution.schedulers` list them; None stops nothing.
        space: of the choices, which a population changes on the way.
        seed: of what a scheduler draws.
        gpus_per_worker: share of a GPU that a trial reserves.
        cpus_per_worker: CPUs that a trial reserves.
        inner_workers: further places of one CPU that a trial reserves for a nested search.
        storage: folder for checkpoints, ``<proposal>/<number>``, which all hosts must see.
        address: of a running cluster; None starts Ray on this machine (or uses the one this process is connected to).
        environment: variables for the workers, over the package's own; they take effect where Ray is started here.
        threads: of one worker's numerical libraries.
        max_repeats: how often a trial is begun again after the loss of its worker.
        working_dir: folder of the user's own modules, shipped to the hosts of a cluster.

    Raises:
        ConfigError: below ``scheduler``, if its settings are wrong.
        ExecutionError: if the connected local Ray is too small.
    """

    def __init__(
        self,
        setup: Callable[[], Program],
        workers: int,
        *,
        storage: Path,
        scheduler: Mapping[str, Any] | None = None,
        space: Space | None = None,
        seed: int = 0,
        gpus_per_worker: float = 0,
        cpus_per_worker: float = 1,
        inner_workers: int = 0,
        address: str | None = None,
        environment: Mapping[str, str] | None = None,
        threads: int = 1,
        max_repeats: int = 5,
        working_dir: Path | None = None,
    ) -> None:
        if workers < 1:
            raise ExecutionError(f"trials need at least 1 worker, got {workers}; set execution.workers to 1 or more")
        cpus = cpus_per_worker + inner_workers
        self.workers = workers
        self._ranking = parse_scheduler(scheduler)
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        local = address in (None, "local")
        variables = worker_environment(threads, environment, local=local)
        self._ray = start_ray(
            workers,
            workers * gpus_per_worker,
            address,
            cpus_per_worker=cpus,
            environment=variables,
            working_dir=working_dir,
        )
        if local:
            require_resources(workers, cpus, gpus_per_worker)
        storage.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=".tune-", dir=storage))
        trainable = training_class(cloudpickle.dumps(setup), threads, storage.absolute(), self._ranking)
        bundles: list[dict[str, float]] = [{"CPU": cpus_per_worker, "GPU": gpus_per_worker}]
        bundles += [{"CPU": 1.0}] * inner_workers
        self._trainable = tune.with_resources(trainable, tune.PlacementGroupFactory(bundles))
        self._max_repeats = max_repeats
        # A bracket halves what it knows: it must see trials before they run. Ray's resources then bound how many do.
        at_once = None if isinstance(self._ranking, HyperBand | Population) else workers
        self._desk = Desk(at_once, self._ranking)
        self._scheduler: TrialScheduler
        if isinstance(self._ranking, Population):
            self._scheduler = population_scheduler(self._ranking, self._desk, space or Space(), seed)
        else:
            self._scheduler = make_scheduler(self._ranking)
        _keep_actors(self._scheduler, workers)
        self._in_flight = 0
        self._thread: threading.Thread | None = None

    def put(self, value: Any) -> Shared:
        """A snapshot of a value, which travels with each call that refers to it (training runs share little)."""
        return Shared(pack(value))

    def restore(self, history: Iterable[tuple[int, Sequence[Report]]]) -> None:
        """Feeds the scheduler what finished trials reported before this process began; call it before the first submit.

        Args:
            history: proposal and reports of each finished trial, in the journal's order.

        Raises:
            ExecutionError: if trials are running already.
        """
        if self._thread is not None:
            raise ExecutionError("restore() must come before the first submit(), while the scheduler is fresh")
        feed(self._scheduler, self._ranking, history)

    def restore_population(self, size: int, changes: Sequence[Change], reports: Mapping[int, Sequence[Report]]) -> None:
        """Feeds a population's scheduler what happened before this process began; call it before the first submit.

        Args:
            size: members that have not finished.
            changes: the recorded ones, in order.
            reports: all that was reported, by proposal.
        """
        if isinstance(self._scheduler, PopulationScheduler):
            self._scheduler.feed(size, changes, reports)

    def submit(self, call: Call) -> None:
        """Queues a training run (or a function call, which ends without reports and costs a tenth of a second more)."""
        packed = pack(resolved(call))
        self._desk.queue(Flight(call, packed, call.extra.get("restored"), call.extra.get("after")))
        self._in_flight += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tune", daemon=True)
            self._thread.start()

    def wait(self, timeout_s: float | None = None) -> list[tuple[Call, Outcome]]:
        """What has arrived; empty when the time is over, or when nothing is in flight.

        Raises:
            ExecutionError: if Tune itself failed.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        arrived: list[tuple[Call, Outcome]] = []
        while self._in_flight and (not arrived or not self._desk.arrived.empty()):
            left = None if deadline is None or arrived else max(0.0, deadline - time.monotonic())
            try:
                item = self._desk.arrived.get(timeout=left)
            except Empty:
                break
            if isinstance(item, BaseException):
                self._in_flight = 0
                if isinstance(item, MetasearchError):
                    raise item
                raise ExecutionError("Ray Tune ended unexpectedly; resume the run") from item
            arrived.append(item)
            self._in_flight -= not isinstance(item[1], Report | Change)
        return arrived

    def close(self) -> None:
        """Stops all trials at their next report, and the local Ray if it was started here; removes Tune's files."""
        self._desk.close()
        if self._thread is not None:
            self._thread.join(timeout=60)
        self._in_flight = 0
        self._ray.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Trials:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        """Tune's loop, from the first trial until :meth:`close`."""
        config = TuneConfig(search_alg=Queue(self._desk), scheduler=self._scheduler, num_samples=-1, reuse_actors=True)
        run = RunConfig(
            name="trials",
            storage_path=str(self._folder),
            callbacks=[Results(self._desk)],
            failure_config=FailureConfig(max_failures=self._max_repeats),
            stop=Closed(self._desk),
            verbose=0,
        )
        try:
            Tuner(self._trainable, tune_config=config, run_config=run).fit()
        except BaseException as error:  # noqa: BLE001 -- raised by wait(), in the thread that can act on it
            self._desk.arrived.put(self._desk.error or error)


def _keep_actors(scheduler: TrialScheduler, workers: int) -> None:
    """Has Tune keep an idle actor for each worker.

    Of the actors that no waiting trial needs Tune keeps one. Where a batch is told before the next one is asked for,
    all others would end with each batch, and new processes import everything again. There is no setting for it; what
    sees Tune's controller is a scheduler.
    """
    add = scheduler.on_trial_add
    kept: list[Any] = []

    def on_trial_add(tune_controller: Any, trial: Any) -> None:
        if not kept and isinstance(trial, TuneTrial):  # an earlier process's trials are fed without a controller
            kept.append(trial.placement_group_factory)
            tune_controller._actor_cache.increase_max(kept[0], workers)
        add(tune_controller, trial)

    scheduler.on_trial_add = on_trial_add  # type: ignore[method-assign]
