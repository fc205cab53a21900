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
`support` and `untrained` measure the 5-way searches of `curves`, and make them where they are missing; `support` and
`spread` take the first seed only. Seconds are those of the clock, so let nothing else run beside `curves`.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from ..common import command
from ..common.jobs import Job, Store
from ..common.setting import Plan
from .figures import FIGURES, markdown
from .parts import PARTS


def main(arguments: list[str] | None = None) -> None:
    parser = command.arguments("families", __doc__, PARTS)
    parser.add_argument("--memory", type=float, default=8.0, help="gigabytes that a measurement of `support` may take")
    given = parser.parse_args(arguments)
    command.work(given, PARTS, Plan(given.scale, given.seeds, given.memory), written)


def written(part: str, store: Store, jobs: list[Job], out: Path) -> None:
    """Table, figure and all measurements of what is done so far."""
    command.write(part, store.rows(jobs), out, functools.partial(markdown, part), FIGURES[part])


if __name__ == "__main__":
    main()
