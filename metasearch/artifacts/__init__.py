"""phi on disk: a manifest, and tensors in the safetensors format. No pickle, and no import of anybody's code."""

from metasearch.artifacts.manifest import FORMAT, Manifest, Provenance, TensorInfo, current_versions
from metasearch.artifacts.references import refuse_user_code, user_references
from metasearch.artifacts.store import StoredPhi, check_fits, load, save
from metasearch.artifacts.weights import Start, rule_settings, start_from, stored

__all__ = [
    "FORMAT",
    "Manifest",
    "Provenance",
    "Start",
    "StoredPhi",
    "TensorInfo",
    "check_fits",
    "current_versions",
    "load",
    "refuse_user_code",
    "rule_settings",
    "save",
    "start_from",
    "stored",
    "user_references",
]
