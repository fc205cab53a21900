"""The commands and their options."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["parser"]

_EPILOG = """\
a first search:      metasearch run experiments/omniglot_maml.yaml
what a file means:   metasearch check FILE
what does not work:  metasearch doctor

RUN is a run's directory, its id, or the beginning of it that fits one run only.
PHI is a folder with a phi (runs/.../phi), a RUN, or MLflow's runs:/ID or models:/NAME/VERSION."""


def parser() -> argparse.ArgumentParser:
    """All commands."""
    top = argparse.ArgumentParser(
        prog="metasearch",
        description="Search over how a network learns: its initialization, optimizer, augmentation, architecture.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, help="show the version and exit")
    _debug(top)
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    _searching(commands)
    _looking(commands)
    _surroundings(commands)
    return top


class _Version(argparse.Action):
    """Prints the version; it is looked up only then."""

    def __init__(self, option_strings: list[str], dest: str, **settings: Any) -> None:
        super().__init__(
            option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=settings.get("help")
        )

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import metasearch

        print(f"metasearch {metasearch.__version__}")
        parser.exit()


def _searching(commands: Any) -> None:
    run = _command(commands, "run", "searching:run", "run an experiment file", runs=True)
    run.add_argument("file", metavar="FILE", help="experiment file (YAML)")
    _overrides(run)
    run.add_argument("--workers", type=_positive, metavar="N", help="short for --set execution.workers=N")
    run.add_argument("--gpus-per-worker", type=float, metavar="X", help="GPUs of each worker, fractions included")
    run.add_argument("--address", metavar="ADDRESS", help="Ray cluster to join (auto: the one of this host)")
    run.add_argument("--seed", type=int, metavar="S", help="seed of the search")
    run.add_argument("--name", metavar="NAME", help="name of the run")
    run.add_argument("--inline", action="store_true", help="work in this process, without Ray")
    run.add_argument("--dry-run", action="store_true", help="time one step, estimate the whole, record nothing")

    resume = _command(commands, "resume", "searching:resume", "continue a run where its record ends", runs=True)
    resume.add_argument("run", metavar="RUN")

    extend = _command(commands, "extend", "searching:extend", "give a run a larger budget and continue it", runs=True)
    extend.add_argument("run", metavar="RUN")
    _overrides(extend, "new value, for example budget.steps=6000 (repeatable)", required=True)

    check = _command(commands, "check", "searching:check", "check an experiment file and print what it stands for")
    check.add_argument("file", metavar="FILE", help="experiment file (YAML)")
    _overrides(check)

    evaluate = _command(commands, "evaluate", "searching:evaluate", "measure a phi on held-out tasks", runs=True)
    evaluate.add_argument("phi", metavar="PHI")
    evaluate.add_argument("--tasks", metavar="FILE", help="other tasks: those of this experiment file (or tasks block)")
    evaluate.add_argument(
        "--episodes", type=_positive, metavar="N", help="number of tasks (default: as at the search's test)"
    )
    evaluate.add_argument("--split", default="test", metavar="NAME", help="split they come from (default: test)")
    evaluate.add_argument(
        "--steps", type=_indexes, metavar="K,K", help="inner steps, one number or several (default: as at the test)"
    )
    evaluate.add_argument(
        "--baselines", action="store_true", help="measure the baselines of the search's test beside it"
    )
    evaluate.add_argument(
        "--predict",
        choices=("together", "alone", "both", "nil"),
        help="how queries are predicted: as one batch, one at a time beside the support set, both, or without the head",
    )
    evaluate.add_argument("--seed", type=_index, metavar="S", help="of the tasks (default: those of the search's test)")
    evaluate.add_argument("--allow-user-code", action="store_true", help="import modules that PHI names; trust it")
    _overrides(evaluate, "another value in the tasks block, for example ways=20 (repeatable)")

    replay = _command(
        commands, "replay", "searching:replay", "compute a recorded evaluation again and compare", runs=True
    )
    replay.add_argument("run", metavar="RUN")
    replay.add_argument("--evaluation", type=_index, required=True, metavar="K", help="its number, from 0")


def _looking(commands: Any) -> None:
    _command(commands, "runs", "looking:runs", "list the runs", runs=True)

    compare = _command(commands, "compare", "looking:compare", "runs side by side", runs=True)
    compare.add_argument("run", nargs="+", metavar="RUN")
    compare.add_argument("--format", choices=("text", "markdown", "html"), default="text", help="default: text")

    show = _command(commands, "show", "looking:show", "what a phi holds, and the architecture it found", runs=True)
    show.add_argument("phi", metavar="PHI")
    show.add_argument("--draw", metavar="FILE", help="draw the architecture into a .png, .svg or .pdf file")

    report = _command(commands, "report", "looking:report", "write a run's HTML report again", runs=True)
    report.add_argument("run", metavar="RUN")

    export = _command(commands, "export", "looking:export", "copy a phi to where it is used", runs=True)
    export.add_argument("phi", metavar="PHI")
    export.add_argument(
        "--to",
        required=True,
        metavar="PLACE",
        help="a folder with all of phi, a .safetensors or .pt file with the initialization as a state dict, or a .json "
        "file with the augmentation policy",
    )
    export.add_argument(
        "--support",
        metavar="FOLDER",
        help="pictures, one folder a class: writes a classifier that has learned them, as an MLflow model to serve",
    )


def _surroundings(commands: Any) -> None:
    ui = _command(commands, "ui", "ui:ui", "show searches in MLflow, on this machine only", runs=True)
    ui.add_argument("run", nargs="?", metavar="RUN", help="run to show (default: the newest)")
    ui.add_argument("--uri", metavar="URI", help="MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db here)")
    ui.add_argument("--port", type=_positive, default=5000, help="port on 127.0.0.1 (default: 5000)")

    datasets = _command(commands, "datasets", "surroundings:datasets", "list data sets, or fetch one")
    datasets.add_argument("action", nargs="?", choices=("list", "get"), default="list")
    datasets.add_argument("name", nargs="?", metavar="NAME", help="data set to fetch")

    _command(commands, "recipes", "surroundings:recipes", "list the recipes")

    optimizers = _command(
        commands, "optimizers", "surroundings:optimizers", "list the learned optimizers that come along, or tell of one"
    )
    optimizers.add_argument("name", nargs="?", metavar="NAME", help="show its card")

    doctor = _command(commands, "doctor", "doctor:doctor", "what works here, and what to do about what does not")
    doctor.add_argument("--ray", action="store_true", help="also start a local Ray and stop it again (seconds)")


def _command(commands: Any, name: str, handler: str, about: str, *, runs: bool = False) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about[0].upper() + about[1:] + "."
    )
    made.set_defaults(handler=handler.split(":"))
    if runs:
        made.add_argument("--runs", default="runs", metavar="DIR", help="folder of run directories (default: runs)")
    _debug(made)
    return made


def _overrides(
    command: argparse.ArgumentParser, about: str = "another value for a.b (repeatable)", *, required: bool = False
) -> None:
    command.add_argument("--set", action="append", default=[], metavar="a.b=c", help=about, required=required)


def _debug(command: argparse.ArgumentParser) -> None:
    # Without a default, so that it may stand before or after the command's name.
    command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks of errors")


def _positive(text: str) -> int:
    if (value := _index(text)) == 0:
        raise argparse.ArgumentTypeError("expected a whole number from 1 on, got 0")
    return value


def _index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def _indexes(text: str) -> list[int]:
    return [_index(one.strip()) for one in text.split(",")]
