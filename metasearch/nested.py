"""A search inside a search: the evaluation of an outer proposal is itself a search, run inline in its trial."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metasearch import running
from metasearch.core.config import Config as BaseConfig
from metasearch.core.contracts import Trial
from metasearch.core.errors import ConfigError
from metasearch.core.values import Call, Measurement
from metasearch.experiment import Experiment
from metasearch.objective import TrialCalls, measurement
from metasearch.resolution import load
from metasearch.tracking.journal import read as read_journal
from metasearch.trees import override, read

__all__ = ["NestedSearch"]


class NestedSearch(TrialCalls):
    """Runs an experiment under a proposal's settings and reports its validation.

    Its journal is a folder of the outer run (``searches/<proposal>``), its seed derives from the proposal, and a trial
    that is started again reports what its own record has, and continues where it ends.

    Args:
        config: its settings.
        program: the worker's program.

    Raises:
        ConfigError: if the inner experiment cannot be built.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            search: the inner experiment: ``{from: FILE, set: {key: value}}``, or a whole experiment.
            report: what is reported after each inner validation and lowered: ``validation/L``, or
                ``validation/<metric>``, whose negative is lowered.
        """

        search: dict[str, Any]
        report: str = "validation/L"

    def __init__(self, config: Any, program: Any) -> None:
        self._program, self._report = program, config.report
        if not config.report.startswith("validation/"):
            raise ConfigError(
                "evaluation.report", f"names a validation figure, validation/L for example; got {config.report!r}"
            )
        inner = self._experiment(config.search, 0)
        if inner.file.validation is None:
            raise ConfigError(
                "evaluation.search", "the inner experiment needs a validation block: its figure is what is reported"
            )

    def run(self, call: Call, trial: Trial) -> Measurement:
        """The inner search, to its end or until the scheduler stops it."""
        start = time.perf_counter()
        best = [float("inf")]

        def report(record: Mapping[str, Any]) -> None:
            name = self._report.removeprefix("validation/")
            value = float(record["L"]) if name == "L" else -float(record["metrics"][name])
            best[0] = min(best[0], value)
            trial.report(int(record["step"]), L=value, best=best[0])

        configuration = self._program.blueprint.configuration(call.phi.choices)["evaluation"]["search"]
        root = Path(self._program.blueprint.run or ".") / "searches"
        folder = f"{call.proposal:06d}"
        journal = root / folder / "journal.jsonl"
        if journal.exists():
            for record in read_journal(journal):
                if record["type"] == "validation":
                    report(record)
            running.resume(root / folder, root=root, on_validation=report)
        else:
            running.run(self._experiment(configuration, call.seed), root=root, folder=folder, on_validation=report)
        return measurement({"L": best[0]}, time.perf_counter() - start)

    def _experiment(self, search: Mapping[str, Any], seed: int) -> Experiment:
        tree = dict(search)
        if "from" in tree:
            unknown = sorted(set(tree) - {"from", "set"})
            if unknown:
                raise ConfigError(f"evaluation.search.{unknown[0]}", "unknown key; beside 'from' only 'set' is known")
            tree = override(read(self._find(str(tree["from"]))), tree.get("set", {}))
        fixed = {"seed": seed, "execution.type": "inline", "test": None, "tracking.mlflow": False}
        return load(override(tree, fixed))

    def _find(self, name: str) -> Path:
        """A file beside the outer experiment, or in the working directory."""
        for folder in self._program.blueprint.folders:
            if (Path(folder) / name).is_file():
                return Path(folder) / name
        raise ConfigError("evaluation.search.from", f"no file {name!r} in {', '.join(self._program.blueprint.folders)}")
