"""The outer loop: ask, journal, evaluate, journal, tell, validate, checkpoint.

The journal is written before anything acts on what it says, so that after a stop at any moment the loop can be walked
again along the record: what the record has is not computed again for a searcher of values, and is computed again and
compared for a searcher of gradients (from the newest checkpoint on).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from metasearch.core import seeds as seeding
from metasearch.core.contracts import Executor, Searcher
from metasearch.core.errors import ExecutionError, ResumeError
from metasearch.core.files import SYNC_S
from metasearch.core.values import Call, Change, Estimate, Evaluation, Failure, Measurement, Phi, Proposal, Report
from metasearch.plan import (
    Ask,
    Evaluator,
    Journal,
    Plan,
    Record,
    Store,
    changes_of,
    compare,
    detail_of,
    fields_of,
    from_record,
    merit,
)

__all__ = ["Controller", "Validate"]

Validate = Callable[[Phi, int], Mapping[str, Any]]
"""Measures phi on held-out tasks: the fields of a ``validation`` record."""


class Controller:
    """Lowers L(phi) with a searcher, an estimator and an executor.

    Args:
        searcher: set up already.
        estimator: the evaluation, as the driver sees it.
        executor: where calls run.
        journal: the record.
        store: where checkpoints go.
        plan: seed, budget and intervals.
        base: the parts of phi that no searcher owns.
        history: the journal's records so far (empty for a new run).
        checkpoint: what the newest checkpoint holds, or None.
        validate: measures phi on held-out tasks.
        on_validation: called with phi and the record of each validation; on the way to a checkpoint it is not.
        on_record: called with every record, old ones not included (tracking and displays feed on it).
    """

    def __init__(
        self,
        searcher: Searcher,
        estimator: Evaluator,
        executor: Executor,
        journal: Journal,
        store: Store,
        plan: Plan,
        *,
        base: Phi | None = None,
        history: Iterable[Record] = (),
        checkpoint: Mapping[str, Any] | None = None,
        validate: Validate | None = None,
        on_validation: Callable[[Phi, Record], None] | None = None,
        on_record: Callable[[Record], None] | None = None,
    ) -> None:
        self.searcher, self.estimator, self.executor = searcher, estimator, executor
        self.journal, self.store, self.plan = journal, store, plan
        self._base = base or Phi()
        self._history = list(history)
        self._checkpoint = checkpoint
        self._validate, self._on_validation, self._on_record = validate, on_validation, on_record
        self.step = 0
        self.asked = 0
        self.best: Record | None = None
        self.last_value = math.nan
        self.stopping = False
        self._proposed = 0
        self._open: list[Ask] = []
        self._calls: dict[tuple[int, int], Call] = {}
        self._answers: dict[int, dict[int, Measurement]] = {}
        self._carried: list[Any] | None = None
        self._reported = {(one["id"], one["step"]) for one in self._history if one["type"] == "report"}
        self._reports: dict[int, list[Report]] = {}
        self._saved = -1
        self._failures = 0
        self._ended = self._succeeded = 0
        self._lowest: Evaluation | None = None
        self._last_failure = ""
        self._known = {(one["type"], one["step"]): one for one in self._history if one["type"] == "validation"}

    def stop(self) -> None:
        """Asks the loop to end after the step in flight, with a checkpoint (what Ctrl-C does)."""
        self.stopping = True

    def run(self) -> None:
        """Walks along the record, then goes on until the budget is spent or :meth:`stop` is called.

        Raises:
            ResumeError: if walking along the record gives something else than the record says.
            ExecutionError: if a call failed and repeating it would not help.
            DivergedError: if the searcher gave up on a non-finite L.
        """
        self._walk()
        for ask in self._open:
            self._dispatch(ask)
        self.go()

    def go(self) -> None:
        """Asks and tells until the budget is spent or :meth:`stop` is called, then saves a checkpoint."""
        while True:
            while not self.stopping and len(self._open) < self.plan.in_flight and self._may_ask():
                self._ask()
            if not self._open or (self.stopping and self.plan.interruptible):
                break
            arrived = self.executor.wait(timeout_s=1.0)
            for call, outcome in arrived:
                self._take(call, outcome)
            if not arrived:
                self.journal.sync()
        self.checkpoint()
        if self._ended and not self._succeeded:
            raise ExecutionError(
                f"none of {self._ended} evaluations succeeded; the last one: {self._last_failure or 'a non-finite L'}"
            )

    def phi(self, choices: Mapping[str, Any] | None = None) -> Phi:
        """Where the search stands, the parts that no searcher owns included, with given choices in place of its own."""
        return self._whole(self.searcher.phi(), choices)

    def found(self, choices: Mapping[str, Any] | None = None) -> Phi:
        """What the search would give if it ended now: as :meth:`phi`, with averages where a searcher keeps them."""
        return self._whole(getattr(self.searcher, "averaged", self.searcher.phi)(), choices)

    def _whole(self, phi: Phi, choices: Mapping[str, Any] | None) -> Phi:
        return Phi(
            {**self._base.tensors, **phi.tensors}, {**self._base.buffers, **phi.buffers}, dict(choices or phi.choices)
        )

    def checkpoint(self) -> None:
        """Saves what the next driver continues from: searcher, carried state, and how far they are."""
        if self.step == self._saved:
            return
        phi = self.phi()
        tree = {
            "step": self.step,
            "searcher": self.searcher.state_dict(),
            "carried": self._carried,
            "phi": {"tensors": phi.tensors, "buffers": phi.buffers},
        }
        self.journal.sync()  # a checkpoint must not be ahead of the record
        path = self.store.save_checkpoint(
            self.step, tree, best=self.best is not None and self.best["step"] == self.step
        )
        self._saved = self.step
        if not any(one["type"] == "checkpoint" and one["step"] == self.step for one in self._history):
            self._record("checkpoint", step=self.step, path=f"checkpoints/{path.name}")

    def recompute(self, evaluation: int) -> float:
        """Walks along the record up to an evaluation and returns L as computed now.

        Raises:
            ResumeError: if an evaluation on the way differs from the record.
        """
        for index, record in enumerate(self._history):
            if record["type"] == "evaluation" and record["id"] == evaluation:
                self._history = self._history[:index]
                break
        self._walk()
        proposal = next(one for ask in self._open for one in ask.proposals if one.id == evaluation)
        return self._compute(proposal).value

    # The budget

    def _may_ask(self) -> bool:
        plan = self.plan
        return (
            (plan.steps is None or self.asked < plan.steps)
            and (plan.evaluations is None or self._proposed < plan.evaluations)
            and (plan.seconds is None or self.journal.elapsed < plan.seconds)
        )

    # Asking

    def _ask(self) -> None:
        ask = self._propose()
        self._record(
            "ask",
            step=ask.step,
            proposals=[{"id": one.id, "seed": one.seed, "choices": dict(one.choices)} for one in ask.proposals],
        )
        self._open.append(ask)
        self._dispatch(ask)

    def _propose(self, n: int | None = None) -> Ask:
        left = math.inf if self.plan.evaluations is None else self.plan.evaluations - self._proposed
        count = int(min(self.plan.batch, left)) if n is None else n
        chosen = self.searcher.ask(count)
        proposals = [
            Proposal(
                self._proposed + index, seeding.derive(self.plan.seed, "evaluation", self._proposed + index), choices
            )
            for index, choices in enumerate(chosen)
        ]
        ask = Ask(self.asked, proposals)
        self.asked += 1
        self._proposed += count
        return ask

    def _dispatch(self, ask: Ask) -> None:
        for proposal in ask.proposals:
            if proposal.id not in ask.evaluations:
                self._submit(proposal)

    def _submit(self, proposal: Proposal) -> None:
        self._answers[proposal.id] = {}
        for plain in self._plain_calls(proposal):
            call = self._continued(plain)
            self._calls[proposal.id, call.index] = call
            self.executor.submit(call)

    def _plain_calls(self, proposal: Proposal) -> list[Call]:
        """The calls of a proposal, with the outer step at which it was asked for."""
        reference = self.executor.put(self.phi(proposal.choices))
        step = next(ask.step for ask in self._open if proposal in ask.proposals)
        calls = self.estimator.calls(proposal.id, reference, self._carried, proposal.seed)
        return [dataclasses.replace(call, step=step) for call in calls]

    def _continued(self, call: Call) -> Call:
        """A training run that an earlier driver left goes on from the newest checkpoint that it reported; a member of a
        population from where the last change left it, since members compare themselves at the same step.
        """
        if self.plan.population:
            return self._as_member(call)
        saved = [one for one in self._reports.get(call.proposal, []) if one.checkpoint is not None]
        if not saved:
            return call
        extra = {**call.extra, "restored": saved[-1].checkpoint, "after": saved[-1].step}
        return dataclasses.replace(call, extra=extra)

    def _as_member(self, call: Call) -> Call:
        changes = [change for change in changes_of(self._history) if call.proposal in change.members]
        if not changes:
            return call
        member = changes[-1].members[call.proposal]
        extra = {**call.extra, "restored": member.checkpoint, "after": changes[-1].step}
        return dataclasses.replace(call, phi=self.executor.put(self.phi(member.choices)), extra=extra)

    # Answers

    def _take(self, call: Call, outcome: Report | Change | Measurement | Failure) -> None:
        expected = self._calls.get((call.proposal, call.index))
        if expected is None or expected.seeds != call.seeds:
            return  # an answer for shards of a size that was given up
        if isinstance(outcome, Report):
            self._report(call.proposal, outcome)
        elif isinstance(outcome, Change):
            self._record("event", event="population", detail=detail_of(outcome))
        elif isinstance(outcome, Failure):
            self._failed(call, outcome)
        else:
            answers = self._answers[call.proposal]
            answers[call.index] = outcome
            if len(answers) == sum(1 for proposal, _ in self._calls if proposal == call.proposal):
                self._evaluated(call.proposal)

    def _report(self, proposal: int, report: Report) -> None:
        if (proposal, report.step) in self._reported:
            return
        self._reported.add((proposal, report.step))
        self._record(
            "report", id=proposal, step=report.step, metrics=dict(report.metrics), checkpoint=report.checkpoint
        )

    def _failed(self, call: Call, failure: Failure) -> None:
        if failure.kind == "out_of_memory" and self.estimator.shard > 1:
            self._record("event", event="shard", detail={"from": self.estimator.shard, "to": self.estimator.shard // 2})
            self.estimator.shard //= 2
            proposal = self._forget(call.proposal)
            self._submit(proposal)
            return
        if failure.kind in ("lost", "preempted") or self.searcher.needs_gradient:
            raise ExecutionError(
                f"{failure.kind} while evaluating proposal {call.proposal}: {failure.message}\n{failure.traceback}"
            )
        proposal = self._forget(call.proposal)
        self._finish(Evaluation(proposal, "failed", Estimate(math.nan, math.nan), failure=failure))

    def _evaluated(self, proposal: int) -> None:
        answers = self._answers[proposal]
        self._finish(self._combine(self._forget(proposal), [answers[index] for index in sorted(answers)]))

    def _combine(self, proposal: Proposal, measurements: Sequence[Measurement]) -> Evaluation:
        estimate, carried = self.estimator.combine(measurements)
        if self.estimator.carries:
            self._carried = carried
        status = "diverged" if estimate.diverged or not math.isfinite(estimate.value) else "ok"
        return Evaluation(
            proposal, "diverged" if status == "diverged" else "ok", estimate, sum(one.seconds for one in measurements)
        )

    def _forget(self, proposal: int) -> Proposal:
        """Drops the calls of a proposal, whose answers are all in or no longer wanted."""
        self._calls = {key: call for key, call in self._calls.items() if key[0] != proposal}
        del self._answers[proposal]
        return next(one for ask in self._open for one in ask.proposals if one.id == proposal)

    def _finish(self, evaluation: Evaluation) -> None:
        ask = next(ask for ask in self._open if evaluation.proposal in ask.proposals)
        self._record("evaluation", step=ask.step, **fields_of(evaluation))
        if evaluation.seconds >= SYNC_S:
            self.journal.sync()
        ask.evaluations[evaluation.proposal.id] = evaluation
        self.last_value = evaluation.value
        self._count(evaluation)
        self._failures = self._failures + 1 if evaluation.status == "failed" else 0
        if self._failures >= self.plan.max_failures:
            assert evaluation.failure is not None
            raise ExecutionError(
                f"{self._failures} proposals in a row failed, the last with: {evaluation.failure.message}\n"
                f"{evaluation.failure.traceback}"
            )
        if ask.complete:
            self._tell(ask)

    def _count(self, evaluation: Evaluation) -> None:
        self._ended += 1
        self._succeeded += evaluation.status == "ok"
        below = self._lowest is None or evaluation.value < self._lowest.value
        if evaluation.status == "ok" and below and not self.searcher.needs_gradient:
            self._lowest = evaluation
        if evaluation.failure is not None:
            self._last_failure = evaluation.failure.message

    # Telling

    def _tell(self, ask: Ask, *, replayed: bool = False) -> None:
        self._open.remove(ask)
        if replayed:
            self.searcher.replay(ask.in_order())
        else:
            self.searcher.tell(ask.in_order())
        self.step += 1
        if self._checkpoint is not None and self.step == self._checkpoint["step"]:
            self.searcher.load_state_dict(self._checkpoint["searcher"])
            self._carried = self._checkpoint["carried"]
            self._saved = self.step
        self._after_step()

    def _after_step(self) -> None:
        restored = self._checkpoint is not None and self.step <= self._checkpoint["step"]
        every = self.plan.validate_every
        due = every is not None and (self.step % every == 0 or self.step == self.plan.steps)
        if ("validation", self.step) in self._known or (due and not restored):
            self._validation()
        if not restored and self.step % self.plan.checkpoint_every == 0:
            self.checkpoint()

    def _validation(self) -> None:
        """Measures where the search stands; a search over nothing but choices stands at its lowest L so far."""
        phi, chosen = self.found(), {}
        if self._lowest is not None:
            phi = self.found(self._lowest.proposal.choices)
            chosen = {"choices": dict(phi.choices)}
        record = self._known.get(("validation", self.step))
        if record is None:
            if self._validate is None:
                return
            fields = self._validate(phi, self.step)
            record = self._record("validation", step=self.step, best=self._improves(fields), **fields, **chosen)
        if record["best"]:
            self.best = record
        restored = self._checkpoint is not None and self.step < self._checkpoint["step"]
        if self._on_validation is not None and not restored:
            self.journal.sync()  # nor must phi be
            self._on_validation(phi, record)

    def _improves(self, fields: Mapping[str, Any]) -> bool:
        value = merit(fields, self.plan.select)
        return math.isfinite(value) and (self.best is None or value > merit(self.best, self.plan.select))

    # The record

    def _record(self, type: str, /, **fields: Any) -> Record:
        record = self.journal.append(type, **fields)
        if self._on_record is not None:
            self._on_record(record)
        return record

    def _walk(self) -> None:
        """Goes along the record; ends in the state in which its last driver was when it wrote the last record."""
        start = 0 if self._checkpoint is None else int(self._checkpoint["step"])
        for record in self._history:
            if record["type"] == "ask":
                self._again(record)
            elif record["type"] == "report":
                self._reports.setdefault(record["id"], []).append(
                    Report(record["step"], record["metrics"], record["checkpoint"])
                )
            elif record["type"] == "event" and record["event"] == "shard":
                self.estimator.shard = record["detail"]["to"]
            elif record["type"] == "evaluation":
                self._walk_evaluation(record, start)
        if self.step < start:
            raise ResumeError(f"the checkpoint of step {start} is ahead of the journal, which ends at step {self.step}")

    def _again(self, record: Record) -> None:
        """Asks again for what the record says was asked."""
        ask = self._propose(len(record["proposals"]))
        for proposal, before in zip(ask.proposals, record["proposals"], strict=True):
            if dict(proposal.choices) != before["choices"] or proposal.seed != before["seed"]:
                raise ResumeError(
                    f"asked again, the searcher proposes {dict(proposal.choices)} for proposal {before['id']}, the "
                    f"record has {before['choices']}; resume with the versions and the configuration of the first start"
                )
        self._open.append(ask)

    def _walk_evaluation(self, record: Record, start: int) -> None:
        ask = next(ask for ask in self._open if any(one.id == record["id"] for one in ask.proposals))
        proposal = next(one for one in ask.proposals if one.id == record["id"])
        restored = ask.step < start
        if self.searcher.needs_gradient and not restored:
            evaluation = self._compute(proposal)
            compare(record, fields_of(evaluation))
        else:
            evaluation = from_record(proposal, record, self._reports.get(proposal.id, []))
        ask.evaluations[proposal.id] = evaluation
        self._count(evaluation)
        if ask.complete:
            self._tell(ask, replayed=restored)

    def _compute(self, proposal: Proposal) -> Evaluation:
        """An evaluation by itself, in order, without recording it."""
        calls = self._plain_calls(proposal)
        for call in calls:
            self.executor.submit(call)
        answers: dict[int, Measurement] = {}
        while len(answers) < len(calls):
            for call, outcome in self.executor.wait():
                if isinstance(outcome, Failure):
                    raise ExecutionError(
                        f"{outcome.kind} while repeating proposal {proposal.id}: {outcome.message}\n{outcome.traceback}"
                    )
                if isinstance(outcome, Measurement):
                    answers[call.index] = outcome
        return self._combine(proposal, [answers[index] for index in sorted(answers)])
