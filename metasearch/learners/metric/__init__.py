"""Learners without an inner gradient that compare: an embedding, shared by all tasks, in which near means alike.

phi is the embedding's weights (slot ``embedding``) and whatever the comparison learns; F_phi is one forward pass.
"""

from metasearch.learners.metric.base import Compared, MetricConfig, MetricLearner
from metasearch.learners.metric.distances import Distance
from metasearch.learners.metric.embedding import Embedding

__all__ = ["Compared", "Distance", "Embedding", "MetricConfig", "MetricLearner"]
