"""Types that experiment files may name before the package has them: just enough to be checked."""

from probes import Supernet

from metasearch.components.initialization import LearnedInitialization
from metasearch.core.registry import register

register("model", "supernet")(Supernet)
register("slot.initialization", "shared_tensors")(LearnedInitialization)
