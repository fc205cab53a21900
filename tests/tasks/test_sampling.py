import itertools
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from metasearch.core.seeds import Draws
from metasearch.tasks.sampling import below, distinct


@given(st.lists(st.integers(3, 500), min_size=1, max_size=8), st.integers(0, 2**62), st.integers(1, 3))
def test_choices_are_different_and_below_their_own_count(counts, seed, k):
    words = Draws([seed], "test").bits(len(counts) * 2 * k).reshape(len(counts), 2 * k)
    chosen = distinct(words, counts)
    assert chosen.shape == (len(counts), k)
    assert (chosen >= 0).all()
    assert (chosen < np.array(counts)[:, None]).all()
    assert all(len(set(row)) == k for row in chosen)


@given(st.integers(1, 25), st.integers(0, 2**62))
def test_as_many_choices_as_there_are_items_form_a_permutation(n, seed):
    assert sorted(distinct(Draws([seed]).bits(2 * n), n)[0]) == list(range(n))


def test_every_ordered_choice_is_equally_likely():
    draws = 12_000
    chosen = distinct(Draws(np.arange(draws)).bits(6), 4)
    seen = Counter(map(tuple, chosen.tolist()))
    expected = draws / 24
    assert set(seen) == set(itertools.permutations(range(4), 3))
    chi_squared = sum((count - expected) ** 2 / expected for count in seen.values())
    assert chi_squared < 49.7  # 99.9th percentile at 23 degrees of freedom


def test_the_largest_word_stays_below_the_bound():
    assert below(np.array([2**64 - 1, 0], dtype=np.uint64), 2**52 + 1).tolist() == [2**52, 0]
