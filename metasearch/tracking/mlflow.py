"""MLflow as a view of the journal: it shows what is recorded, and a search never waits for it or fails because of it.

One parent run a search, found by the tag ``metasearch.run`` before one is made: the configuration as params, ``L``,
``objective``, each metric, ``gradient_norm``, ``validation/...`` and ``best_validation`` by outer step, ``test/...``
and for each ``baseline/<name>`` the figure that selects phi at the end. One child run a proposal of a search over
choices: ``phi.<name>`` as params, ``L`` by step of its reports, and a status that says what became of it. Points carry
the journal's time stamps, so sending one again changes nothing.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from metasearch.core.errors import ConfigError, MetasearchError
from metasearch.tracking.mlflow_session import Session, Target
from metasearch.tracking.mlflow_store import default_uri, quiet_mlflow, short_timeouts, urls
from metasearch.tracking.rundir import RunDirectory

__all__ = ["MlflowView", "child_limit", "default_uri", "urls"]

AUTO_CHILDREN = 10_000
"""Under ``auto`` up to so many proposals each have a run of their own; of more, the best so many."""

_CHILDREN_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0
_log = logging.getLogger(__name__)


class MlflowView:
    """Keeps MLflow up to date with a run's journal.

    Args:
        uri: tracking store; None takes ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working directory.
        experiment: MLflow experiment to file the run under.
        run_id: our id of the run.
        run_dir: its directory, whose journal is shown and whose files are uploaded at the end.
        config: the resolved configuration.
        children: which proposals have a run of their own: ``auto`` (all up to 10,000, of more the best), ``all``,
            ``none``, ``best:N`` or ``{best: N}``.
        parent_run_id: MLflow run under which this one is filed (a search within a search).
        interval_s: a call of :meth:`sync` within so many seconds after the last does nothing.

    Raises:
        ConfigError: if ``children`` is none of these.
    """

    def __init__(
        self,
        uri: str | None,
        experiment: str,
        run_id: str,
        run_dir: Path | str,
        *,
        config: Mapping[str, Any],
        children: str | Mapping[Any, int] = "auto",
        parent_run_id: str | None = None,
        interval_s: float = 2.0,
    ) -> None:
        self.uri = uri or default_uri()
        self._run = RunDirectory(run_dir)
        limit = child_limit(children)
        self._target = Target(self.uri, experiment, run_id, self._run.journal_path, config, limit, parent_run_id)
        self._session: Session | None = None
        self._interval_s = interval_s
        self._not_before = 0.0
        self._failures = 0
        self._run_id: str | None = None

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the parent run, once it is known."""
        return self._session.run_id if self._session else self._run_id

    def sync(self, *, force: bool = False) -> bool:
        """Shows what the journal has gained, if it is time; whether MLflow is now up to date as far as is known.

        Errors of MLflow are reported once an outage and tried again after a growing pause; nothing is missed for long.

        Args:
            force: act now, whatever the interval or the pause, and send everything however long it takes.

        Raises:
            JournalError: if the journal is damaged.
        """
        now = time.monotonic()
        if not force and now < self._not_before:
            return self._failures == 0
        done = self._attempt(None if force else now + _CHILDREN_S)
        if self._failures:
            self._not_before = time.monotonic() + min(_FIRST_PAUSE_S * 2 ** (self._failures - 1), _LONGEST_PAUSE_S)
        else:
            self._not_before = time.monotonic() + self._interval_s
        return done

    def close(self) -> bool:
        """A last attempt at everything, files included; whether MLflow has it all. Says so if it has not.

        Raises:
            JournalError: if the journal is damaged.
        """
        done = self.sync(force=True) and self._guarded(self._upload)
        if not done:
            _log.warning(
                "MLflow at %s is behind the journal of %s; nothing is lost: it catches up when the run is resumed",
                self.uri,
                self._target.run_id,
            )
        return done

    def urls(self) -> dict[str, str]:
        """Pages that show this search (see :func:`urls`); empty while MLflow has not been reached."""
        session = self._session
        if session is None or session.run_id is None:
            return {}
        return urls(self.uri, session.experiment_id, session.run_id, session.best_children(), viewed=session.viewed)

    def __enter__(self) -> MlflowView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _attempt(self, deadline: float | None) -> bool:
        done = False

        def advance() -> None:
            nonlocal done
            if self._session is None:
                quiet_mlflow()
                self._session = Session(self._target)
            done = self._session.advance(deadline)

        if not self._target.journal.exists():
            return True
        return self._guarded(advance) and done

    def _upload(self) -> None:
        run = self._run
        files = (run.phi_path, run.config_path, run.report_path, run.results_path, run.path / "plots")
        if self._session:
            self._session.upload([path for path in files if path.exists()])

    def _guarded(self, act: Callable[[], None]) -> bool:
        try:
            with short_timeouts():
                act()
        except MetasearchError:
            raise
        except Exception as error:  # noqa: BLE001
            # A store fails in the ways of its client, its database and its artifact service; none may stop a search.
            _log.debug("writing to MLflow failed", exc_info=True)
            if self._failures == 0:
                _log.warning(
                    "MLflow at %s cannot be written, the search goes on and MLflow will catch up: %s",
                    self.uri,
                    _brief(error),
                )
            self._failures += 1
            self._run_id = self.run_id
            self._session = None
            return False
        if self._failures:
            _log.info("MLflow at %s is reachable again", self.uri)
        self._failures = 0
        return True


def child_limit(children: str | Mapping[Any, int]) -> int:
    """How many proposals have a run of their own under ``auto``, ``all``, ``none``, ``best:N`` or ``{best: N}``.

    Raises:
        ConfigError: for anything else.
    """
    if isinstance(children, Mapping) and set(children) == {"best"}:
        children = f"best:{children['best']}"
    named = {"auto": AUTO_CHILDREN, "all": sys.maxsize, "none": 0}
    if isinstance(children, str) and children in named:
        return named[children]
    if match := re.fullmatch(r"best:\s*([1-9]\d*)", str(children)):
        return int(match[1])
    raise ConfigError(
        "tracking.children", f"expected 'auto', 'all', 'none' or 'best:N' with N from 1 on, got {children!r}"
    )


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
