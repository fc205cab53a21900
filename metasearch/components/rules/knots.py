"""A learned schedule: the logarithm of a factor of the rate, at given steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import AfterValidator, NonNegativeInt
from torch import Tensor

from metasearch.components.rules.flat import Block
from metasearch.core.values import Tensors

__all__ = ["Knots", "log_rate", "unscheduled"]


def _in_order(value: tuple[int, ...]) -> tuple[int, ...]:
    if any(one >= other for one, other in pairwise(value)):
        raise ValueError("knots are steps in rising order")
    return value


Knots = Annotated[tuple[NonNegativeInt, ...], AfterValidator(_in_order)]
"""Steps in rising order, counted from 0."""


def unscheduled(knots: Sequence[int]) -> Tensors:
    """What a rule with these knots starts from: ``schedule`` ``[knots]``, zeros; nothing without knots."""
    return {"schedule": torch.zeros(len(knots))} if knots else {}


def log_rate(values: Tensors, block: Block, knots: Sequence[int], step: int) -> Tensor:
    """The logarithm of the rate at a step: ``log_rate`` of phi, ``[n]`` or one for all, and that of the factor.

    The factor's is ``schedule`` ``[knots]`` at the knots, linear in log(1 + step) between them, and before the first
    and after the last as there.
    """
    constant = block.constants(values, "log_rate")
    if not knots:
        return constant
    schedule, after = values["schedule"], sum(knot <= step for knot in knots)
    if after in (0, len(knots)):
        return constant + schedule[max(after - 1, 0)]
    low, high = math.log1p(knots[after - 1]), math.log1p(knots[after])
    share = (math.log1p(step) - low) / (high - low)
    return constant + ((1 - share) * schedule[after - 1] + share * schedule[after])
