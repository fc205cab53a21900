"""Three families of few-shot learners side by side: metric (prototypical), black-box (SNAIL), gradient-based (MAML).

    python -m experiments.families --part curves [--out runs/families] [--scale 1] [--seeds 2] [--seconds 600]

from the repository's root. Each part writes PART.png, PART.md (means over seeds; 95 % intervals over all episodes, and
over seeds) and PART.csv (every measurement) into the folder --out:

    curves      accuracy against training tasks and against seconds, 5-way and 20-way 1-shot
    shift       sheared, scaled and inverted pictures; sinusoids with larger amplitudes and other phases
    support     support sets of up to 10,000 examples: accuracy, time, memory; and more classes than in training
    pool        few different training tasks
    context     class means, single neighbours and neighbours in context, within alphabets and across them
    untrained   random phi beside trained; soft beside hard nearest neighbours in training
    spread      50 random settings of each family, as a search over searches

What is in the folder is not done again: a run that was stopped, or ended by --seconds, goes on where it was. `shift`,
`support` and `untrained` measure the 5-way searches of `curves`, and make them where they are missing. Seconds are
those of the clock, so let nothing else run beside `curves`.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from metasearch.core.files import write_file
from metasearch.reporting.style import Plot, png

from .figures import FIGURES, averaged, csv_of, markdown
from .parts import PARTS
from .setting import Plan
from .store import Store


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.families", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS), help="all if none is named")
    parser.add_argument("--out", type=Path, default=Path("runs/families"))
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all budgets")
    parser.add_argument("--seeds", type=int, default=2, help="searches of each kind (not of `support` and `spread`)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no job begins after this time")
    parser.add_argument("--memory", type=float, default=8.0, help="gigabytes that a measurement of `support` may take")
    given = parser.parse_args(arguments)
    logging.getLogger("metasearch").setLevel(logging.ERROR)  # what each search starts from, a hundred times
    end = time.monotonic() + given.seconds
    plan, store = Plan(given.scale, given.seeds, given.memory), Store(given.out)
    for part in given.part:
        print(f"{part}: ", end="")
        jobs = PARTS[part](plan)
        whole = store.work(jobs, given.scale, end)
        written(part, store, jobs, given.out)
        if not whole:
            print("the time is over; the same command goes on")
            return


def written(part: str, store: Store, jobs: list, out: Path) -> None:
    """Table, figure and all measurements of what is done so far."""
    rows = store.rows(jobs)
    if not rows:
        return
    means = averaged(rows)
    text = markdown(part, means)
    write_file(out / f"{part}.csv", csv_of(rows).encode())
    write_file(out / f"{part}.md", text.encode())
    write_file(out / f"{part}.png", png(Plot(part, part, lambda: FIGURES[part](means))))
    print(f"{text}\n{out / part}.png, .md, .csv")


if __name__ == "__main__":
    main()
