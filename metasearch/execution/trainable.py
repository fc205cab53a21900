"""The Ray Tune trainable: a thin shell that advances one training run after another in the same worker."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.result import DONE

from metasearch.core.values import Failure, Report
from metasearch.execution.failures import attempt
from metasearch.execution.packing import pack, unpack
from metasearch.execution.schedulers import RANK, TIME, Ranking
from metasearch.execution.sessions import Session, is_trial
from metasearch.execution.worker import load_program

__all__ = ["AFTER", "CALL", "OUTCOME", "REPORT", "RESTORED", "Training", "training_class"]

CALL, RESTORED, AFTER = "call", "restored", "after"
"""Keys of a trial's configuration: the packed call, its newest checkpoint and the last step that was delivered."""

REPORT, OUTCOME = "report", "outcome"
"""Keys of a result: the report, or the packed measurement or failure that ends the trial."""


class Training(tune.Trainable):
    """Runs ``program.run``; the program is built once and kept while Tune hands one trial after another to this worker.

    Checkpoints are the training run's own, so what Tune saves when it puts a trial aside is empty: on the way back the
    configuration names the newest checkpoint.
    """

    program_setup: bytes
    threads: int
    folder: Path
    ranking: Ranking | None

    def setup(self, config: dict[str, Any]) -> None:
        self._program = attempt(load_program, self.program_setup, self.threads)
        self._session: Session | None = None
        self._open(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._open(new_config)
        return True

    def step(self) -> dict[str, Any]:
        outcome = attempt(self._advance)
        return outcome if isinstance(outcome, dict) else {DONE: True, OUTCOME: pack(outcome)}

    def cleanup(self) -> None:
        if self._session is not None:
            self._session.stop()
            self._session = None

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see the class."""

    def _open(self, config: dict[str, Any]) -> None:
        self._given = config
        self.config: dict[str, Any] = {}  # else Tune sends the whole call back with every result

    def _advance(self) -> Any:
        if isinstance(self._program, Failure):
            return self._program
        if self._session is None:
            call = unpack(self._given[CALL].content)
            if not is_trial(call):
                return self._program.measure(call)
            run = partial(self._program.run, call)
            self._session = Session(run, call, self.folder, self._given.get(RESTORED), self._given.get(AFTER))
        outcome = self._session.advance()
        if not isinstance(outcome, Report):
            return outcome
        rank = 0.0 if self.ranking is None else self.ranking.rank(outcome)
        return {TIME: outcome.step, RANK: rank, REPORT: outcome}


def training_class(setup: bytes, threads: int, folder: Path, ranking: Ranking | None) -> type[Training]:
    """The trainable of one executor; a class of its own, since Tune configures classes and not objects."""
    values = {"program_setup": setup, "threads": threads, "folder": folder, "ranking": ranking}
    return type("Training", (Training,), values)
