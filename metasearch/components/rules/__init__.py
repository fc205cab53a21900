"""Learned update rules: each is one file, and serves the inner loop and the optimizer that a user takes away."""

from metasearch.components.rules.flat import Block, Features, FlatRule, State, multiplied

__all__ = ["Block", "Features", "FlatRule", "State", "multiplied"]
