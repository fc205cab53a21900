"""A learned schedule: the logarithm of a factor of the rate, at given steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, NonNegativeInt
from torch import Tensor

__all__ = ["Knots", "log_factor"]


def _in_order(value: tuple[int, ...]) -> tuple[int, ...]:
    if any(one >= other for one, other in pairwise(value)):
        raise ValueError("knots are steps in rising order")
    return value


Knots = Annotated[tuple[NonNegativeInt, ...], AfterValidator(_in_order)]
"""Steps in rising order, counted from 0."""


def log_factor(schedule: Tensor, knots: Sequence[int], step: int) -> Tensor:
    """The logarithm of the factor at a step: ``schedule`` ``[knots]`` at the knots, linear in log(1 + step) between
    them, and before the first and after the last as there.
    """
    after = sum(knot <= step for knot in knots)
    if after in (0, len(knots)):
        return schedule[max(after - 1, 0)]
    low, high = math.log1p(knots[after - 1]), math.log1p(knots[after])
    share = (math.log1p(step) - low) / (high - low)
    return (1 - share) * schedule[after - 1] + share * schedule[after]
