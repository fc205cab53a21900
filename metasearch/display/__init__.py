"""What a person sees of a search: progress while it runs, the figures at its end. Needs no terminal."""

from metasearch.display.live import Display
from metasearch.display.results import print_group, print_outcome, print_results

__all__ = ["Display", "print_group", "print_outcome", "print_results"]
