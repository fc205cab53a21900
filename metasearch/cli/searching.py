"""Commands that search, or compute something of a search again."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from metasearch.cli import INTERRUPTED
from metasearch.core.errors import ConfigError, MetasearchError
from metasearch.display import Display, print_group, print_outcome
from metasearch.display.figures import count, duration, figure, place

if TYPE_CHECKING:
    from metasearch.experiment import Experiment
    from metasearch.groups import Group
    from metasearch.loaded import LoadedPhi
    from metasearch.running import Outcome

__all__ = ["check", "evaluate", "extend", "replay", "resume", "run"]


def run(given: Namespace) -> int:
    """``metasearch run FILE``."""
    assignments = [*given.set, *_short(given)]
    if given.dry_run:
        return _dry_run(given.file, assignments)
    from metasearch import api

    with _watching() as display:
        outcome = api.run(given.file, set=assignments, runs=given.runs, listener=display)
    return _ended(outcome)


def resume(given: Namespace) -> int:
    """``metasearch resume RUN``."""
    from metasearch import api

    with _watching() as display:
        outcome = api.resume(given.run, runs=given.runs, listener=display)
    return _ended(outcome)


def extend(given: Namespace) -> int:
    """``metasearch extend RUN --set budget.steps=N``."""
    from metasearch import api

    with _watching() as display:
        outcome = api.extend(given.run, runs=given.runs, listener=display, set=given.set)
    return _ended(outcome)


def check(given: Namespace) -> int:
    """``metasearch check FILE``: the resolved configuration on standard output, one document a run."""
    from metasearch import groups, resolution, trees

    tree = trees.override(trees.read(given.file), given.set)
    folder = Path(given.file).resolve().parent
    members = groups.expand(tree) if tree.get("seeds") or tree.get("variants") else {"": tree}
    resolved = {name: resolution.resolve(member, folder) for name, member in members.items()}
    for name, experiment in resolved.items():
        print(f"--- # {name}" if name else "---")
        for line in _about(experiment):
            print(f"# {line}")
        print(
            yaml.safe_dump(_in_order(trees.recorded(experiment.tree)), sort_keys=False, allow_unicode=True),
            end="",
        )
    return 0


def evaluate(given: Namespace) -> int:
    """``metasearch evaluate PHI``: by default the test of the search again."""
    from metasearch.loaded import load
    from metasearch.measuring import evaluate as measured

    phi = load(given.phi, runs=given.runs, allow_user_code=given.allow_user_code)
    seed = phi.manifest.provenance.seeds.get("search", 0) if given.seed is None else given.seed
    stored = phi.manifest.config.get("test") or {}
    settings = {
        "tasks": _tasks(given),
        "episodes": given.episodes or stored.get("episodes", 600),
        "split": given.split,
        "predict": given.predict,
        "seed": seed,
    }
    steps = given.steps or [None]
    if given.baselines or len(steps) > 1:
        _print_steps(given, phi, stored.get("baselines", ()) if given.baselines else (), settings)
        return 0
    test = measured(phi, steps=steps[0], **settings)
    inner = "" if test["inner_steps"] is None else f", {count(test['inner_steps'], 'inner step')}"
    print(f"{given.phi}: {count(test['episodes'], 'episode')} of split {given.split!r}, seed {seed}{inner}")
    for name in [name.removesuffix("_ci95") for name in test if name.endswith("_ci95")]:
        print(f"  {name:<10} {figure(name, test[name], test[f'{name}_ci95'])}")
    print("± is a 95 % interval over episodes")
    return 0


def _print_steps(given: Namespace, phi: LoadedPhi, baselines: Sequence[Any], settings: dict[str, Any]) -> None:
    """A row for phi and for each baseline, a column for each number of inner steps."""
    from metasearch.measuring import evaluate_steps

    steps = given.steps or [getattr(phi.learner(), "n_steps", lambda **_: 0)(train=False)]
    found = evaluate_steps(phi, steps, baselines=baselines, **settings)
    first = found["phi"][steps[0]]
    metric = next((name for name in first if name != "L" and f"{name}_ci95" in first), "L")
    print(
        f"{given.phi}: {metric} on {count(first['episodes'], 'episode')} of split {given.split!r}, "
        f"seed {settings['seed']}"
    )
    rows = [["inner steps", *map(str, steps)]]
    for name, by_steps in found.items():
        figures = [figure(metric, one[metric], one[f"{metric}_ci95"]) for one in by_steps.values()]
        rows.append([name, *figures])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print("± is a 95 % interval over episodes")


def replay(given: Namespace) -> int:
    """``metasearch replay RUN --evaluation K``."""
    from metasearch import rehearsal

    result = rehearsal.replay(given.run, given.evaluation, root=given.runs, say=lambda text: print(text, flush=True))
    print(f"evaluation {result['evaluation']}: L = {result['L']!r}, the record has {result['recorded']!r}")
    print(
        "equal bit for bit"
        if result["equal"]
        else "they differ: the hardware, the versions or the code are not those of the run"
    )
    return 0 if result["equal"] else 1


def _dry_run(file: str, assignments: list[str]) -> int:
    from metasearch import rehearsal, resolution

    print("one step to warm up, one to be timed; nothing is recorded", flush=True)
    experiment = resolution.load(file, assignments)
    times = rehearsal.dry_run(experiment)
    print(f"start and first step   {duration(times['start_seconds'])} (workers and compilation included)")
    print(f"one step               {duration(times['step_seconds'])}")
    print(f"L of the last step     {figure('L', times['L'])}")
    if "estimate_seconds" in times:
        whole, steps = duration(times["estimate_seconds"]), count(experiment.file.budget.steps or 0, "step")
        print(f"whole search           about {whole} for {steps}, without validation and test")
    return 0


def _short(given: Namespace) -> list[str]:
    """The options that stand for overrides."""
    options = {
        "execution.workers": given.workers,
        "execution.gpus_per_worker": given.gpus_per_worker,
        "execution.address": given.address,
        "seed": given.seed,
        "name": given.name,
        "execution.type": "inline" if given.inline else None,
    }
    return [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]


def _tasks(given: Namespace) -> Any:
    """Other tasks than those of the search: a file's, with overrides on top; None if neither is given."""
    changes = [f"tasks.{one.removeprefix('tasks.')}" for one in given.set]
    if given.tasks is None:
        return changes or None
    from metasearch import trees

    tree = trees.read(given.tasks)
    block = tree.get("tasks", tree)
    block = {"type": block} if isinstance(block, str) else block
    if not isinstance(block, Mapping) or "type" not in block:
        raise ConfigError("--tasks", f"{given.tasks} has no tasks block; expected tasks: {{type: ..., ...}}")
    return trees.override({"tasks": dict(block)}, changes)["tasks"]


def _in_order(tree: dict[str, Any]) -> dict[str, Any]:
    """The blocks in the order in which the schema explains them."""
    from metasearch.schema import ExperimentFile

    return {key: tree[key] for key in ExperimentFile.model_fields if key in tree}


def _about(experiment: Experiment) -> list[str]:
    """What a resolved experiment searches over, for a person."""
    file = experiment.file
    lines = [f"{file.name}: valid"]
    if file.learner is not None and not experiment.trials:
        phi = experiment.program.learner({}).init(file.seed)
        sizes: dict[str, int] = {}
        for name, tensor in phi.tensors.items():
            slot = name.partition(".")[0]
            sizes[slot] = sizes.get(slot, 0) + tensor.numel()
        lines += [f"phi: {slot}, {count(size, 'number')}" for slot, size in sizes.items()]
    lines += [f"phi: {name}, chosen by {experiment.owners[name]}" for name in experiment.space]
    return lines


@contextmanager
def _watching() -> Iterator[Display]:
    """A display for one search; where it ends early, the way to go on is said."""
    with Display() as display:
        try:
            yield display
        except (KeyboardInterrupt, MetasearchError) as error:
            display.close()
            if display.directory is not None:
                stopped = "stopped at once" if isinstance(error, KeyboardInterrupt) else "the search failed"
                path = place(display.directory)
                print(f"{stopped}; its record is in {path}; go on with\n    metasearch resume {path}", file=sys.stderr)
            raise


def _ended(outcome: Outcome | Group) -> int:
    """Prints how a search ended; its exit status."""
    if hasattr(outcome, "outcomes"):
        print_group(outcome)
    else:
        print_outcome(outcome)
    statuses: dict[str, int] = {"finished": 0, "interrupted": INTERRUPTED}
    return statuses.get(outcome.status, 1)
