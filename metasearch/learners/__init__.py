"""F_phi: how theta is found from a task's support set under phi."""

from metasearch.core.registry import registry

__all__: list[str] = []

registry("learner").add("inner_loop", "metasearch.learners.inner_loop:InnerLoop")
registry("learner").add("policy", "metasearch.learners.policy:PolicyLoop")
registry("learner").add("nearest_neighbour", "metasearch.learners.nearest_neighbour:PixelNearestNeighbour")
for _name, _path in {
    "snail": "metasearch.learners.reader.snail:Snail",
    "transformer": "metasearch.learners.reader.transformer:Transformer",
    "recurrent": "metasearch.learners.reader.recurrent:Recurrent",
    "mann": "metasearch.learners.reader.mann:MANN",
    "weight_generator": "metasearch.learners.reader.generator:WeightGenerator",
    "meta_networks": "metasearch.learners.reader.meta_networks:MetaNetworks",
}.items():
    registry("learner").add(_name, _path)
for _name in ("prototypical", "matching", "relation", "siamese"):
    registry("learner").add(_name, f"metasearch.learners.metric.{_name}:{_name.title()}")
registry("learner").add("rotation_prediction", "metasearch.learners.pretext.rotation:RotationPrediction")
registry("learner").add("contrastive", "metasearch.learners.pretext.contrastive:Contrastive")
