"""Searchers are found by name in each file of this folder, also when it is run alone."""

import metasearch.searchers  # noqa: F401  (lists the built-in searchers)
