"""One unbroken conversation with an MLflow store: finds what is there already and adds what the journal has beyond it.

A session is thrown away at the first error. The next one starts from what the store then holds, so nothing has to be
remembered about which of the last writes arrived; writing a row twice leaves one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metasearch.core.faults import fault_point
from metasearch.core.files import sync
from metasearch.tracking.journal import Record, tail
from metasearch.tracking.ledger import ChildRun, Ledger, RunRows, flatten, param_value
from metasearch.tracking.mlflow_store import view_of_trials

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["Session", "Target"]

RUN_TAG, PROPOSAL_TAG, PARENT_TAG = "metasearch.run", "metasearch.proposal", "mlflow.parentRunId"
_CURSOR_TAG = "metasearch.records"
_BATCH = 1000
_COLUMNS = {"metrics": 4, "params": 12}
"""What MLflow's table shows of a trial, at most."""


@dataclass(frozen=True)
class Target:
    """What is shown and where.

    Args:
        uri: tracking store.
        experiment: MLflow experiment, made if need be.
        run_id: our id of the run.
        journal: its journal.
        config: resolved configuration, shown as params.
        child_limit: how many proposals have a run of their own.
        parent_run_id: MLflow run under which this one is filed (a search within a search).
    """

    uri: str
    experiment: str
    run_id: str
    journal: Path
    config: Mapping[str, Any]
    child_limit: int
    parent_run_id: str | None = None


class Session:
    """See the module. Every method may raise whatever the store raises."""

    def __init__(self, target: Target) -> None:
        from mlflow.tracking import MlflowClient

        self._target = target
        self._client = MlflowClient(tracking_uri=target.uri)
        self._ledger = Ledger(
            select=str((target.config.get("validation") or {}).get("select", "L")), with_children=target.child_limit > 0
        )
        self._offset = 0
        self.experiment_id = self._find_experiment()
        self.run_id: str | None = None
        self._status = "RUNNING"
        self._children: dict[int, tuple[str, str]] = {}
        """MLflow's run id and status, by proposal."""
        self._columns: dict[str, dict[str, None]] = {kind: {} for kind in _COLUMNS}
        self._view = ""
        self.viewed = False
        """Whether MLflow has a view of this search's trials."""
        self._cursor = 0
        """How many records the store had already taken in when this session began, and later has."""
        if found := self._find_parent():
            self._attach(found)

    def advance(self, deadline: float | None = None) -> bool:
        """Sends what the journal has gained; whether that was all: past ``deadline`` (monotonic seconds) children wait.

        Raises:
            JournalError: if the journal is damaged.
        """
        sync(self._target.journal)  # what MLflow has seen must not be lost
        records, self._offset = tail(self._target.journal, self._offset)
        for record in records:
            self._ledger.add(record)
            if self._ledger.following == self._cursor:
                self._ledger.settle(self._children)
        parent = self._ledger.parent
        if parent is None:
            return True
        run_id = self.run_id or self._create_parent(records[0], parent)
        if parent.rows or parent.tags:
            self._send(run_id, parent)
            fault_point("mlflow.flush")
        if not self._send_children(run_id, deadline):
            return False
        if parent.status != self._status:
            self._set_status(run_id, parent)
            self._status = parent.status
        self._show_columns(run_id)
        if self._ledger.following != self._cursor:
            counts = {"evaluations": self._ledger.evaluations, _CURSOR_TAG: self._ledger.following}
            self._log(run_id, tags={key: str(value) for key, value in counts.items()})
            self._cursor = self._ledger.following
        return True

    def upload(self, paths: list[Path]) -> None:
        """Copies files, and folders under their name, to the run's artifacts."""
        if self.run_id is None:
            return
        for path in paths:
            if path.is_dir():
                self._client.log_artifacts(self.run_id, str(path), path.name)
            else:
                self._client.log_artifact(self.run_id, str(path))

    def best_children(self) -> list[str]:
        """MLflow's run ids of the proposals shown, best first."""
        ranked = sorted(self._ledger.children.values(), key=lambda child: child.rank)
        return [self._children[child.proposal][0] for child in ranked if child.proposal in self._children]

    def _find_experiment(self) -> str:
        experiment = self._client.get_experiment_by_name(self._target.experiment)
        return str(experiment.experiment_id if experiment else self._client.create_experiment(self._target.experiment))

    def _find_parent(self) -> Run | None:
        return next(self._search(RUN_TAG, self._target.run_id, "attributes.start_time ASC"), None)

    def _attach(self, run: Run) -> None:
        """Goes on with the run that an earlier session made."""
        self.run_id, self._status = run.info.run_id, run.info.status
        self._cursor = int(run.data.tags.get(_CURSOR_TAG, 0))
        for child in self._search(PARENT_TAG, self.run_id, "attributes.start_time ASC"):
            if (number := child.data.tags.get(PROPOSAL_TAG)) is not None:
                self._children.setdefault(int(number), (child.info.run_id, child.info.status))
        tag, _ = view_of_trials(self.run_id, [])
        if (view := self._client.get_experiment(self.experiment_id).tags.get(tag)) is not None:
            self._view, self.viewed = view, True
            for column in json.loads(view)[
                "selectedColumns"
            ]:  # an earlier session has sent rows that this one will not
                kind, _, name = column.partition(".")
                self._columns[kind][name.strip("`")] = None
        self._log_config(self.run_id, run.data.params)

    def _create_parent(self, first: Record, parent: RunRows) -> str:
        tags = {RUN_TAG: self._target.run_id}
        if self._target.parent_run_id:
            tags[PARENT_TAG] = self._target.parent_run_id
        run = self._client.create_run(self.experiment_id, parent.started_ms, tags, run_name=self._target.run_id)
        self.run_id = str(run.info.run_id)
        self._log_config(self.run_id, {})
        return self.run_id

    def _log_config(self, run_id: str, present: Mapping[str, str]) -> None:
        """Params are written once; a setting that a later driver changed (a longer budget) becomes a tag."""
        params = flatten(self._target.config)
        if new := {key: value for key, value in params.items() if key not in present}:
            self._log(run_id, params=new)
        if changed := {key: value for key, value in params.items() if present.get(key, value) != value}:
            self._log(run_id, tags={f"metasearch.changed.{key}": value for key, value in changed.items()})

    def _send_children(self, run_id: str, deadline: float | None) -> bool:
        kept = self._ledger.keep_best(self._target.child_limit)
        if len(kept) < self._ledger.proposals:
            for proposal in self._children.keys() - kept:
                self._client.delete_run(self._children.pop(proposal)[0])
        for proposal in sorted(self._ledger.changed & kept):
            if deadline is not None and time.monotonic() > deadline:
                return False
            self._send_child(run_id, self._ledger.children[proposal])
            self._ledger.changed.discard(proposal)
        return True

    def _show_columns(self, run_id: str) -> None:
        """Has MLflow's table of this search's trials show what has come to be known of them."""
        tag, view = view_of_trials(
            run_id, [f"{kind}.`{name}`" for kind, names in self._columns.items() for name in names]
        )
        if any(self._columns.values()) and view != self._view:
            self._client.set_experiment_tag(self.experiment_id, tag, view)
            self._view, self.viewed = view, True

    def _send_child(self, run_id: str, child: ChildRun) -> None:
        shown = [row.name for row in child.rows if row.name != "objective"]  # for most searches it is L once more
        for kind, names in (("metrics", shown), ("params", child.params)):
            known = self._columns[kind]
            known |= dict.fromkeys([name for name in names if name not in known][: _COLUMNS[kind] - len(known)])
        child_id, status = self._children.get(child.proposal) or self._create_child(run_id, child)
        self._send(child_id, child)
        if child.status != status:
            self._set_status(child_id, child)
        self._children[child.proposal] = (child_id, child.status)

    def _create_child(self, run_id: str, child: ChildRun) -> tuple[str, str]:
        tags = {**child.tags, PARENT_TAG: run_id, PROPOSAL_TAG: str(child.proposal)}
        run = self._client.create_run(self.experiment_id, child.started_ms, tags, run_name=f"proposal {child.proposal}")
        self._children[child.proposal] = (run.info.run_id, "RUNNING")
        child.tags = {}
        fault_point("mlflow.flush")
        return self._children[child.proposal]

    def _send(self, run_id: str, content: RunRows) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(row.name, row.value, row.time_ms, row.step) for row in content.rows]
        self._log(run_id, params=content.params, tags=content.tags, metrics=metrics[:_BATCH])
        for start in range(_BATCH, len(metrics), _BATCH):
            self._log(run_id, metrics=metrics[start : start + _BATCH])
        content.clear()

    def _log(
        self,
        run_id: str,
        *,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: Any = (),
    ) -> None:
        from mlflow.entities import Param, RunTag

        self._client.log_batch(
            run_id,
            metrics=metrics,
            params=[Param(key, value) for key, value in (params or {}).items()],
            tags=[RunTag(key, param_value(value)) for key, value in (tags or {}).items()],
        )

    def _set_status(self, run_id: str, content: RunRows) -> None:
        if content.ended_ms is None:
            self._client.update_run(run_id, status=content.status)
        else:
            self._client.set_terminated(run_id, content.status, content.ended_ms)

    def _search(self, tag: str, value: str, order: str) -> Iterator[Run]:
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self.experiment_id],
                f"tags.`{tag}` = '{value}'",
                max_results=_BATCH,
                order_by=[order],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return
