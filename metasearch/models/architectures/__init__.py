"""Networks that are made from choices: an operation for each edge of a cell, or a block for each layer.

Each is an ordinary ``nn.Module``: with one operation at each place it is an architecture, with all of them a supernet.
"""

from metasearch.models.architectures.cells import CellNetwork
from metasearch.models.architectures.count import Size, count
from metasearch.models.architectures.macro import MacroNetwork
from metasearch.models.architectures.places import Architecture, SearchNetwork

__all__ = ["Architecture", "CellNetwork", "MacroNetwork", "SearchNetwork", "Size", "count"]
