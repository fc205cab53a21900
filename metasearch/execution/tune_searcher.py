"""A searcher of ours as one of Ray Tune's, for people who run ``tune.Tuner`` themselves."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher as TuneBase
from ray.tune.search.sample import Categorical, Domain, Quantized
from ray.tune.search.sample import Float as TuneFloat
from ray.tune.search.sample import Integer as TuneInteger

from metasearch.core.contracts import Searcher
from metasearch.core.errors import ConfigError, ResumeError
from metasearch.core.files import from_json, to_json, write_file
from metasearch.core.seeds import derive
from metasearch.core.space import Space, extract, substitute
from metasearch.core.values import Estimate, Evaluation, Failure, Phi, Proposal

__all__ = ["TuneAdapter", "ranges"]

_log = logging.getLogger(__name__)


class TuneAdapter(TuneBase):
    """What Tune asks of a ``search_alg``, answered by ask and tell.

    What was suggested and what came of it is its state: saved as JSON, and restored by asking and telling again.

    Args:
        make: a fresh searcher of choices.
        space: the configuration with its ranges, as experiment files or as Tune write them; None takes ``param_space``.
        metric: reported figure to search by; None takes that of ``TuneConfig``.
        mode: ``min`` or ``max``; None takes that of ``TuneConfig``.
        seed: of all draws.
    """

    def __init__(
        self,
        make: Callable[[], Searcher],
        space: Mapping[str, Any] | None = None,
        *,
        metric: str | None = None,
        mode: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(metric=metric, mode=mode)
        self._make, self._seed = make, seed
        self._tree: Mapping[str, Any] | None = None if space is None else ranges(space)
        self._events: list[list[Any]] = []
        self._searcher: Searcher | None = None
        self._open: dict[str, Proposal] = {}
        if self._tree is not None:
            self._begin()

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Takes what ``TuneConfig`` and ``param_space`` say, unless it is known already."""
        if self._tree is not None and config:
            return False
        if mode not in (None, "min", "max"):
            raise ConfigError("mode", f"expected min or max, got {mode!r}")
        self._metric, self._mode = metric or self._metric, mode or self._mode
        if self._tree is None:
            self._tree = ranges(config)
            self._begin()
        return True

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The configuration of the next trial.

        Raises:
            ConfigError: if no space or no metric was given.
        """
        if self._tree is None or not self._metric:
            missing = "space" if self._tree is None else "metric"
            raise ConfigError(missing, f"is not known; give it here or to the Tuner ({missing}=..., param_space=...)")
        proposal = self._ask(trial_id)
        self._events.append(["ask", trial_id, dict(proposal.choices)])
        return dict(substitute(extract(self._tree)[0], proposal.choices))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells what a trial came to; without the metric it failed, with one not finite it diverged."""
        if trial_id not in self._open:
            _log.warning("trial %s was not suggested by this searcher; what it came to is not learned from", trial_id)
            return
        numbers = {
            name: float(value)
            for name, value in (result or {}).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        if error or self._metric not in numbers:
            numbers = {}
        self._events.append(["complete", trial_id, numbers])
        self._tell(trial_id, numbers)

    def save(self, checkpoint_path: str) -> None:
        """Writes what happened so far as JSON, and the space as far as it is plain values."""
        state = {"format": 1, "metric": self._metric, "mode": self._mode, "events": self._events}
        try:
            text = to_json({**state, "space": self._tree})
        except TypeError:
            text = to_json(state)
        write_file(Path(checkpoint_path), text)

    def restore(self, checkpoint_path: str) -> None:
        """Takes up what :meth:`save` wrote.

        Raises:
            ResumeError: if the searcher, asked again, suggests something else, or the space is neither known here nor
                in what was saved.
        """
        state = from_json(Path(checkpoint_path).read_text("utf-8"))
        self._metric, self._mode = state["metric"], state["mode"]
        self._tree = state.get("space") if self._tree is None else self._tree  # Tune restores before it says the space
        if self._tree is None:
            raise ResumeError("the space holds objects, which are not saved; give the searcher its space: space=...")
        self._walk(state["events"])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_searcher", "_open")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._searcher, self._open = None, {}
        if self._tree is not None:
            self._walk(self._events)

    def _walk(self, events: list[list[Any]]) -> None:
        self._begin()
        for kind, trial_id, content in events:
            if kind == "complete":
                self._tell(trial_id, content)
            elif (again := dict(self._ask(trial_id).choices)) != content:
                raise ResumeError(
                    f"asked again, the searcher suggests {again} for trial {trial_id}, before it was {content}; "
                    "restore with the searcher, the space, the seed and the versions of the first start"
                )
        self._events = [list(event) for event in events]

    def _begin(self) -> None:
        assert self._tree is not None
        self._searcher = self._make()
        if self._searcher.needs_gradient:
            raise ConfigError("searcher", "takes gradients, which trials do not give; use a searcher of choices")
        space = Space({name: dimension for name, (dimension, _) in extract(self._tree)[1].items()})
        self._searcher.setup(Phi(), space, derive(self._seed, "searcher"))
        self._open, self._asked = {}, 0

    def _ask(self, trial_id: str) -> Proposal:
        assert self._searcher is not None
        (choices,) = self._searcher.ask(1)
        self._open[trial_id] = Proposal(self._asked, derive(self._seed, "evaluation", self._asked), choices)
        self._asked += 1
        return self._open[trial_id]

    def _tell(self, trial_id: str, numbers: Mapping[str, float]) -> None:
        assert self._searcher is not None
        proposal = self._open.pop(trial_id)
        if not numbers:
            failure = Failure("user_error", f"the trial ended without {self._metric!r}")
            evaluation = Evaluation(proposal, "failed", Estimate(math.nan, math.nan), failure=failure)
        else:
            value = numbers[str(self._metric)] * (-1.0 if self._mode == "max" else 1.0)
            status: Any = "ok" if math.isfinite(value) else "diverged"
            seconds = numbers.get("time_total_s", 0.0)
            evaluation = Evaluation(proposal, status, Estimate(value, value, dict(numbers)), seconds)
        self._searcher.tell([evaluation])


def ranges(tree: Any) -> Any:
    """A configuration whose Tune domains are written as experiment files write ranges; all else stays.

    Raises:
        ConfigError: naming a domain that has no such form (a normal distribution, a function).
    """
    if isinstance(tree, Mapping):
        return {str(key): _named(key, value) for key, value in tree.items()}
    return _range(tree) if isinstance(tree, Domain) else tree


def _named(key: Any, value: Any) -> Any:
    try:
        return ranges(value)
    except ConfigError as error:
        raise error.under(str(key)) from None


def _range(domain: Domain) -> dict[str, Any]:
    sampler: Any = domain.get_sampler()  # type: ignore[no-untyped-call]
    step = None
    if isinstance(sampler, Quantized):
        step, sampler = sampler.q, sampler.sampler
    if isinstance(domain, Categorical):
        return {"choice": list(domain.categories)}
    log = type(sampler).__name__ == "_LogUniform"
    if type(sampler).__name__ not in ("_Uniform", "_LogUniform") or not isinstance(domain, TuneFloat | TuneInteger):
        raise ConfigError("", f"{domain.domain_str} by {type(sampler).__name__} has no range; use a uniform one")
    whole = isinstance(domain, TuneInteger)
    # Tune's integers stop before their upper end, except for quantized ones.
    high = domain.upper - 1 if whole and step in (None, 1) else domain.upper
    found: dict[str, Any] = {"int" if whole else "float": [domain.lower, high]}
    found |= {"log": True} if log else {}
    return found | ({"step": step} if step not in (None, 1) and not log else {})
