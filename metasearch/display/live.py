"""The progress of a search: one live panel on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from metasearch.display.figures import count, duration, figure, headline, number, place
from metasearch.display.progress import Progress

__all__ = ["Display"]

_LINE_S = 10.0
_TROUBLES = 5
"""So many evaluations that went wrong have a notice each."""

_LIBRARIES = ("ray", "mlflow", "alembic", "optuna")


class Display:
    """A listener that shows a search; it may show several, one after the other.

    Args:
        console: where to; None is standard output.
        live: True for the panel, False for lines, None for what the console can do.
        every_s: without a panel, at most one line of progress in so many seconds.
    """

    def __init__(self, console: Console | None = None, *, live: bool | None = None, every_s: float = _LINE_S) -> None:
        self.console = console or Console(highlight=False)
        self.live = self.console.is_terminal if live is None else live
        self._every_s = every_s
        self._lock = threading.RLock()
        self.directory: Path | None = None
        """That of the run that is, or was last, shown."""
        self._screen: Live | None = None
        self._progress = Progress({})
        self._title, self._phase = "", ""
        self._workers = 1
        self._gradient = True
        self._said = self._heard = 0.0  # monotonic times of the last line and the last record
        self._notices = _Notices(self.note)
        self._levels: dict[str, int] = {}

    # What a search tells

    def on_start(self, directory: Any, experiment: Any, info: Mapping[str, Any]) -> None:
        """Begins to show a run."""
        self.close()
        file, self.directory = experiment.file, Path(directory.path)
        with self._lock:
            self._progress = Progress(file.budget.model_dump(), int(info.get("step", 0)))
            self._workers = 1 if file.execution.type == "inline" else file.execution.workers
            self._gradient = experiment.takes_gradient()
            self._phase = ""
            self._said = self._heard = time.monotonic()
        self._title = f"{'resuming' if info.get('resumed') else 'searching'} {file.name}"
        begun = f" from step {info['step']:,}" if info.get("resumed") else ""
        self._print(f"{self._title}{begun} in {place(directory.path)}")
        self._quiet()
        if self.live:
            self._screen = Live(get_renderable=self._panel, console=self.console, refresh_per_second=4)
            self._screen.start()
            atexit.register(self.close)  # a search that raises must not leave the terminal without a cursor

    def on_record(self, record: Mapping[str, Any]) -> None:
        """Takes in a record of the journal."""
        with self._lock:
            self._progress.add(record)
            self._heard = time.monotonic()
            if record["type"] == "evaluation":
                self._phase = ""
        if line := self._line(record):
            self._print(line)
            self._said = time.monotonic()

    def on_phase(self, text: str) -> None:
        """Says what happens now."""
        with self._lock:
            self._phase = text
        if not self.live:
            self._print(text)

    def on_end(self, outcome: Any) -> None:
        """Leaves the last state on the screen."""
        self.close()

    def note(self, text: str) -> None:
        """A notice in one line, above the panel."""
        self._print(f"note: {' '.join(text.split())}", style="yellow")

    def close(self) -> None:
        """Gives the terminal back; does nothing the second time."""
        screen, self._screen = self._screen, None
        if screen is not None:
            atexit.unregister(self.close)
            with self._lock:
                self._phase = ""
            screen.stop()
        self._loud()

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Lines

    def _print(self, text: str, style: str | None = None) -> None:
        self.console.print(Text(text, style or ""), soft_wrap=True)

    def _line(self, record: Mapping[str, Any]) -> str:
        """The line that a record is worth; on a terminal the panel shows most of it."""
        kind, progress = record["type"], self._progress
        if kind == "validation" and not self.live:
            best = ", best so far" if record["best"] else ""
            return (
                f"step {record['step']:,}: validation {headline(record)} ({count(record['episodes'], 'episode')}{best})"
            )
        if kind == "test":
            kind = "" if "networks" in record else "baseline "
            name = "test" if record["name"] == "metasearch" else kind + record["name"]
            return f"{name}: {headline(record)} ({count(record['episodes'], 'episode')}, {duration(record['seconds'])})"
        if kind == "event" and record["event"] == "shard":
            return f"note: out of memory; going on with {count(record['detail']['to'], 'task')} in a shard"
        if kind == "evaluation" and record["status"] != "ok" and progress.troubled <= _TROUBLES + 1:
            shown = progress.troubled <= _TROUBLES
            return (
                f"note: {_trouble(record)}" if shown else "note: further ones are counted only; the report lists them"
            )
        due = time.monotonic() - self._said >= self._every_s
        if not self.live and due and kind == "evaluation":
            return ", ".join(part for part in (self._steps(), self._loss(), self._speed(), self._left()) if part)
        if not self.live and due and kind == "report":
            return _report(record)
        return "" if self.live or kind != "evaluation" or progress.evaluations != 1 else self._first_line()

    def _first_line(self) -> str:
        return f"first evaluation done after {duration(self._progress.elapsed)}: {self._loss()}"

    # The panel

    def _panel(self) -> RenderableType:
        with self._lock:
            progress = self._progress
            rows = [
                ("search", self._bar()),
                ("L(φ)", self._loss().removeprefix("L ") or "no evaluation yet"),
                ("validation", self._validation()),
                ("training", "" if progress.report is None else _report(progress.report)),
                (
                    "trouble",
                    f"{count(progress.troubled, 'evaluation')} diverged or failed" if progress.troubled else "",
                ),
                ("speed", self._speed()),
                ("time", f"{duration(self._driven())} so far" + (f", {left}" if (left := self._left()) else "")),
                ("now", self._phase),
            ]
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for name, value in rows:
            if value:
                table.add_row(f"  {name}", value)
        return table

    def _driven(self) -> float:
        """Seconds of driving until now; the clock goes on between records, and stops with the panel."""
        since = time.monotonic() - self._heard if self._screen is not None else 0.0
        return self._progress.elapsed + since

    def _bar(self) -> RenderableType:
        bar = Table.grid(padding=(0, 2))
        share = self._progress.share
        bar.add_row(self._steps(), ProgressBar(total=1.0, completed=share, width=28), f"{100 * share:.0f} %")
        return Group(bar)

    def _validation(self) -> str:
        now, best = self._progress.validation, self._progress.best
        if now is None:
            return ""
        text = f"{headline(now)} at step {now['step']:,}"
        if best is now:
            return f"{text}, the best so far"
        if best is None:
            return text
        name, value = next(iter((best.get("metrics") or {"L": best["L"]}).items()))
        return f"{text}; best {name} {figure(name, value)} at step {best['step']:,}"

    # Parts of both

    def _steps(self) -> str:
        progress = self._progress
        if "evaluations" in progress.budget and "steps" not in progress.budget:
            return f"evaluation {progress.evaluations:,} of {progress.budget['evaluations']:,}"
        total = progress.budget.get("steps")
        return f"step {progress.step:,}" + (f" of {total:,}" if total else "")

    def _loss(self) -> str:
        """A gradient search is watched by a running mean, a search over choices by the lowest L."""
        progress = self._progress
        mean, last, lowest = progress.mean, progress.last, progress.lowest
        if last is None:
            return ""
        if mean is None:
            return f"L {number(float(last['L']))}"
        if self._gradient:
            over = f" (mean of the last {mean[1]} evaluations)" if mean[1] > 1 else ""
            return f"L {number(mean[0])}{over}"
        assert lowest is not None  # there is a mean, so there was a finite L
        return f"L {number(float(last['L']))}, lowest {number(float(lowest['L']))} (evaluation {lowest['id']})"

    def _speed(self) -> str:
        rate = self._progress.tasks_per_second
        speed = [] if rate is None else [f"{rate:.0f} tasks/s" if rate >= 10 else f"{rate:.2g} tasks/s"]
        return ", ".join([*speed, count(self._workers, "worker")])

    def _left(self) -> str:
        left = self._progress.left()
        return "" if not left else f"about {duration(left)} left"

    # Other people's output

    def _quiet(self) -> None:
        """Our own warnings become notices; libraries are heard from errors on."""
        ours = logging.getLogger("metasearch")
        for left_over in [one for one in ours.handlers if isinstance(one, _Notices)]:
            ours.removeHandler(left_over)  # of a display whose search raised before it could be closed
        ours.addHandler(self._notices)
        for name in _LIBRARIES:
            logger = logging.getLogger(name)
            if logger.level == logging.NOTSET:
                self._levels[name] = logger.level
                logger.setLevel(logging.ERROR)

    def _loud(self) -> None:
        logging.getLogger("metasearch").removeHandler(self._notices)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        self._levels.clear()


class _Notices(logging.Handler):
    """Shows warnings as notices."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())


def _trouble(record: Mapping[str, Any]) -> str:
    if record["status"] == "failed":
        failure = record["failure"] or {}
        first = next(iter(str(failure.get("message", "")).splitlines()), "")
        return f"evaluation {record['id']} failed ({failure.get('kind', 'unknown')}): {first}"
    tasks = record["diverged"]
    shown = ", ".join(map(str, tasks[:5])) + (" ..." if len(tasks) > 5 else "")
    return f"evaluation {record['id']} diverged" + (
        f" in task {shown}" if tasks else f": L is {number(float(record['L']))}"
    )


def _report(record: Mapping[str, Any]) -> str:
    figures = ", ".join(f"{name} {figure(name, float(value))}" for name, value in record["metrics"].items())
    return f"training run {record['id']}, step {record['step']}: {figures}"
