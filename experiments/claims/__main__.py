"""What is claimed of MAML and of self-supervised starts, measured.

    python -m experiments.claims --part steps [--out runs/claims] [--scale 1] [--seeds 2] [--seconds 600]

from the repository's root. Each part writes PART.png, PART.md (means over seeds; 95 % intervals over all episodes, and
over seeds) and PART.csv (every measurement) into the folder --out:

    steps      more inner steps at the test than in training: after 0 to 20 of them
    reach      steps that fine-tuning from pre-training, or from random weights, needs to be where MAML is after one
    away       MAML and fine-tuning on tasks unlike those of training: sinusoids, moved drawings, more classes
    support    the outer loss taken on the support set: how support and query examples come apart
    descent    how far the loss falls along the first gradient from a MAML start, a pre-trained and a random one
    starts     random and self-supervised starts, fine-tuned and under MAML, against the number of training tasks

Searches have no validation but those of `starts`: their last phi is measured. Rates of fine-tuning are the best of
some on validation tasks. What is in the folder is not done again: a run that was stopped, or ended by --seconds, goes
on where it was; the parts share their searches.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from matplotlib.figure import Figure

from ..common import command
from ..common.jobs import Job, Row, Store
from ..common.setting import Plan
from .figures import FIGURES
from .parts import PARTS
from .tables import TABLES


def main(arguments: list[str] | None = None) -> None:
    given = command.arguments("claims", __doc__, PARTS).parse_args(arguments)
    command.work(given, PARTS, Plan(given.scale, given.seeds), written)


def written(part: str, store: Store, jobs: list[Job], out: Path) -> None:
    """Table, figure and all measurements of what is done so far."""
    command.write(part, store.rows(jobs), out, TABLES[part], functools.partial(_drawn, part))


def _drawn(part: str, rows: Sequence[Row]) -> Figure:
    return FIGURES[part]([row for row in rows if row.get("value") is not None])


if __name__ == "__main__":
    main()
