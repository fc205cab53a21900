"""What a stored phi is turned into outside of a search: a learner, a network, the initial values of any module."""

from metasearch.takeaway.adapted import AdaptedNetwork, Learned
from metasearch.takeaway.initialize import InitializationReport, initialize
from metasearch.takeaway.inputs import as_examples
from metasearch.takeaway.places import find
from metasearch.takeaway.rebuild import build_learner, for_outputs, plain_config, spec_of

__all__ = [
    "AdaptedNetwork",
    "InitializationReport",
    "Learned",
    "as_examples",
    "build_learner",
    "find",
    "for_outputs",
    "initialize",
    "plain_config",
    "spec_of",
]
