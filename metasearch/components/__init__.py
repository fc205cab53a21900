"""The slots of an inner loop: parts of learning that are fixed or learned.

To add one, subclass :class:`Component`, give it a nested ``Config`` and register it under ``slot.<name of the slot>``;
a slot name that nobody used before is a new slot.
"""

from metasearch.components.base import SLOTS, Component, Context
from metasearch.core.registry import registry

__all__ = ["SLOTS", "Component", "Context"]

_BUILT_IN = {
    "slot.architecture": {
        "chosen": "metasearch.components.architecture:ChosenArchitecture",
        "mixed": "metasearch.components.architecture:MixedArchitecture",
    },
    "slot.initialization": {
        "tensors": "metasearch.components.initialization:LearnedInitialization",
        "random": "metasearch.components.initialization:RandomInitialization",
    },
    "slot.update_rule": {
        "sgd": "metasearch.components.update_rule:Sgd",
        "adam": "metasearch.components.update_rule:Adam",
        "learned_momentum": "metasearch.components.rules.momentum:MomentumRule",
        "learned_adam": "metasearch.components.rules.adam:AdamRule",
        "learned_padam": "metasearch.components.rules.padam:PadamRule",
        "lstm": "metasearch.components.rules.lstm:LstmRule",
        "mlp": "metasearch.components.rules.mlp:MlpRule",
        "meta_lstm": "metasearch.components.rules.meta_lstm:MetaLstm",
    },
    "slot.regularizer": {"proximal": "metasearch.components.regularizer:Proximal"},
    "slot.augmentation": {
        "none": "metasearch.components.augmentation:Nothing",
        "given": "metasearch.components.augmentation:Given",
        "sub_policies": "metasearch.components.augmentation:SubPolicies",
        "rand_augment": "metasearch.components.augmentation:RandAugment",
        "uniform": "metasearch.components.augmentation:Uniform",
        "schedule": "metasearch.components.augmentation:Scheduled",
        "relaxed": "metasearch.components.augmentation:RelaxedPolicy",
    },
    "slot.norms": {"per_step": "metasearch.components.norms:PerStepNorms"},
    "slot.learning_rates": {
        "fixed": "metasearch.components.learning_rates:FixedRate",
        "scheduled": "metasearch.components.learning_rates:ScheduledRate",
        "shared": "metasearch.components.learning_rates:SharedRate",
        "per_layer": "metasearch.components.learning_rates:PerLayerRates",
        "per_tensor": "metasearch.components.learning_rates:PerTensorRates",
        "per_parameter": "metasearch.components.learning_rates:PerParameterRates",
    },
}
for _kind, _parts in _BUILT_IN.items():
    for _name, _path in _parts.items():
        registry(_kind).add(_name, _path)
