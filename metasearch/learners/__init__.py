"""F_phi: how theta is found from a task's support set under phi."""

from metasearch.core.registry import registry

__all__: list[str] = []

registry("learner").add("inner_loop", "metasearch.learners.inner_loop:InnerLoop")
registry("learner").add("policy", "metasearch.learners.policy:PolicyLoop")
registry("learner").add("nearest_neighbour", "metasearch.learners.nearest_neighbour:PixelNearestNeighbour")
