"""Sinusoids whose sampling takes a while that depends on the seed and the process: calls end out of order."""

import os
import time
from typing import Any

import numpy as np

from metasearch.core.values import Task
from metasearch.tasks.sinusoid import Sinusoid


class SlowSinusoid(Sinusoid):
    def sample(self, split: str, seeds: Any) -> Task:
        time.sleep(float(np.random.default_rng([int(seeds[0]) % 2**32, os.getpid()]).uniform(0, 0.03)))
        return super().sample(split, seeds)
