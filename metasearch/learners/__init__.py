"""F_phi: how theta is found from a task's support set under phi."""

from metasearch.core.registry import registry

__all__: list[str] = []

registry("learner").add("inner_loop", "metasearch.learners.inner_loop:InnerLoop")
registry("learner").add("nearest_neighbour", "metasearch.learners.nearest_neighbour:PixelNearestNeighbour")
for _name in ("prototypical", "matching", "relation", "siamese"):
    registry("learner").add(_name, f"metasearch.learners.metric.{_name}:{_name.title()}")
