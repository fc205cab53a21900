"""What one evaluation computes about L: a value, a gradient, a direction."""

from metasearch.core.registry import registry

__all__: list[str] = []

for _name, _path in {
    "value": "metasearch.estimators.value:Value",
    "backprop": "metasearch.estimators.backprop:Backprop",
    "first_order": "metasearch.estimators.backprop:FirstOrder",
    "bilevel": "metasearch.estimators.bilevel:Bilevel",
    "imitation": "metasearch.estimators.imitation:Imitation",
    "implicit": "metasearch.estimators.implicit:Implicit",
    "ppo": "metasearch.estimators.ppo:PPO",
    "reptile": "metasearch.estimators.reptile:Reptile",
    "truncated": "metasearch.estimators.truncated:Truncated",
    "es": "metasearch.estimators.evolution:ES",
    "truncated_es": "metasearch.estimators.evolution:TruncatedES",
    "pes": "metasearch.estimators.evolution:PES",
}.items():
    registry("estimator").add(_name, _path)
