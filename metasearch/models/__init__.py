"""Networks as pure functions of parameters that carry a leading task axis."""

from metasearch.core.registry import registry

for _name, _part in {
    "conv4": "metasearch.models.conv4:Conv4",
    "mlp": "metasearch.models.mlp:MLP",
    "module": "metasearch.models.module:ModuleModel",
}.items():
    registry("model").add(_name, _part)
