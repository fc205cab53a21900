"""Learned rates where PyTorch expects rates: optimizers and schedulers for any training loop.

- :class:`SGDHD`, :class:`NesterovHD` and :class:`AdamHD` move their own rate by the hypergradient, online.
- :class:`ElementwiseSGD` takes a rate for each single number, and :class:`StepRates` rates for each step.
- :func:`schedule` makes a curve over a training run from its settings, and the curve a scheduler.
"""

from metasearch.core.registry import registry
from metasearch.optim.elementwise import ElementwiseSGD
from metasearch.optim.hypergradient import SGDHD, AdamHD, NesterovHD
from metasearch.optim.schedules import Schedule, StepRates, schedule

__all__ = ["SGDHD", "AdamHD", "ElementwiseSGD", "NesterovHD", "Schedule", "StepRates", "schedule"]

for _name, _path in {
    "constant": "metasearch.optim.schedules:Constant",
    "warmup_cosine": "metasearch.optim.schedules:WarmupCosine",
    "pieces": "metasearch.optim.schedules:Pieces",
}.items():
    registry("schedule").add(_name, _path)
