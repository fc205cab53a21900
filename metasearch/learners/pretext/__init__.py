"""Learners of an embedding from pictures alone: tasks that pictures set by themselves, for which nobody has to label
them.

phi is the embedding's weights (slot ``embedding``) and what the pretext task needs besides (slot ``pretext``).
"""

from metasearch.learners.pretext.base import Answers, Pretext

__all__ = ["Answers", "Pretext"]
