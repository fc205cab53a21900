"""The held-out protocol: validation, test, baselines and their intervals."""

from metasearch.core.registry import registry

__all__: list[str] = []

for _name, _path in {
    "random": "metasearch.evaluation.baselines:RandomInitialization",
    "pretrained": "metasearch.evaluation.baselines:Pretrained",
    "multitask": "metasearch.evaluation.joint:Multitask",
    "averaged": "metasearch.evaluation.joint:Averaged",
    "nearest_neighbour": "metasearch.evaluation.baselines:NearestNeighbour",
    "sgd": "metasearch.evaluation.optimizers:Sgd",
    "momentum": "metasearch.evaluation.optimizers:Momentum",
    "nesterov": "metasearch.evaluation.optimizers:Nesterov",
    "rmsprop": "metasearch.evaluation.optimizers:RmsProp",
    "adam": "metasearch.evaluation.optimizers:Adam",
    "adamw_cosine": "metasearch.evaluation.optimizers:AdamWCosine",
}.items():
    registry("baseline").add(_name, _path)
