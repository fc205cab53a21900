"""Augmentation policies: operations on images as tensor functions, policies over them, and what a search may choose.

:class:`Policy` says what is done; a design (``designs``) is a family of policies with a space for searchers;
:class:`Relaxed` is one with a gradient; :class:`Augmentation` is the ``nn.Module`` that leaves a search.
"""

from metasearch.augment.designs import Design, design
from metasearch.augment.module import Augmentation
from metasearch.augment.operations import NAMES, OPERATIONS, STROKES
from metasearch.augment.policy import Policy
from metasearch.augment.relaxed import Relaxed

__all__ = ["NAMES", "OPERATIONS", "STROKES", "Augmentation", "Design", "Policy", "Relaxed", "design"]
