"""Counter-based random numbers: every draw of a search is a pure function of (seed, purpose, index).

A draw never depends on how many draws came before it, on which worker made it or on how tasks were grouped, so a
task sampled alone equals the same task sampled in a shard of eight.

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"),
written in numpy and vectorised over seeds; seeds are derived with BLAKE2b.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ALGORITHM", "Draws", "derive", "derive_many"]

ALGORITHM = "philox4x32-10/blake2b-64/v1"
"""Name of the scheme; stored in every manifest, since other numbers would mean another search."""

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_ROUNDS = 8
"""Half rounds of the Feistel network: four for rows, four for columns."""


def derive(seed: int, *path: int | str) -> int:
    """A child seed in [0, 2^63), from a parent seed and a path of purposes and indexes.

    Args:
        seed: parent seed, any integer.
        path: what the child is for, for example ``("step", 12, "shard", 3)``.

    >>> derive(0, "step", 1) == derive(0, "step", 1), derive(0, "step", 1) == derive(0, "step", "1")
    (True, False)
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *path):
        token = f"i{int(part)}" if isinstance(part, int | np.integer) else f"s{part}"
        digest.update(f"{len(token)}:{token}".encode())
    return int.from_bytes(digest.digest(), "little") >> 1


def derive_many(seed: int, purpose: str, indexes: ArrayLike) -> NDArray[np.int64]:
    """Child seeds of many indexes at once, ``[len(indexes)]``; each depends on its own index only."""
    index = np.asarray(indexes, dtype=np.uint64).reshape(-1)
    key = np.full(index.shape, derive(seed, purpose), dtype=np.uint64)
    words = _philox(index, key)
    return ((words[0] | (words[1] << _SHIFT)) >> np.uint64(1)).astype(np.int64)


class Draws:
    """Independent streams of random numbers, one a seed; each method draws for all of them.

    Args:
        seeds: ``[T]`` non-negative integers, one a task.
        purpose: separates the streams of one seed from each other (``"classes"``, ``"labels"`` ...).

    Each call to a method consumes the next counters of every stream, so two calls on one object differ and the same
    sequence of calls on an equal object gives equal numbers.
    """

    def __init__(self, seeds: ArrayLike, purpose: str = "") -> None:
        keys = np.asarray(seeds, dtype=np.uint64).reshape(-1)
        self._keys = keys ^ np.uint64(derive(0, "draws", purpose))
        self._next = 0

    def __len__(self) -> int:
        return int(self._keys.shape[0])

    def bits(self, n: int) -> NDArray[np.uint64]:
        """``[T, n]`` words of 64 random bits."""
        blocks = (n + 1) // 2
        counters = np.arange(self._next, self._next + blocks, dtype=np.uint64)
        self._next += blocks
        counter = np.broadcast_to(counters, (len(self), blocks)).reshape(-1)
        words = _philox(counter, np.repeat(self._keys, blocks))
        pairs = np.stack([words[0] | (words[1] << _SHIFT), words[2] | (words[3] << _SHIFT)], axis=-1)
        return pairs.reshape(len(self), 2 * blocks)[:, :n]

    def uniform(self, n: int, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
        """``[T, n]`` numbers from U[low, high)."""
        unit = (self.bits(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return low + (high - low) * unit

    def integers(self, n: int, high: int) -> NDArray[np.int64]:
        """``[T, n]`` integers from {0 ... high - 1}, with replacement.

        Raises:
            ValueError: if ``high`` is below 1.
        """
        if high < 1:
            raise ValueError(f"high must be at least 1, got {high}")
        return np.minimum((self.uniform(n) * high).astype(np.int64), high - 1)

    def normal(self, n: int) -> NDArray[np.float64]:
        """``[T, n]`` numbers from N(0, 1), by the Box-Muller transform."""
        half = (n + 1) // 2
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(half)))
        angle = 2.0 * np.pi * self.uniform(half)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :n]

    def choose(self, n: int, k: int) -> NDArray[np.int64]:
        """``[T, k]`` different integers from {0 ... n - 1}, in random order.

        Raises:
            ValueError: if more are asked for than there are.
        """
        if not 0 <= k <= n:
            raise ValueError(f"cannot choose {k} different items out of {n}")
        return np.argsort(self.bits(n), axis=1, kind="stable")[:, :k]

    def permutation(self, n: int) -> NDArray[np.int64]:
        """``[T, n]``: a random order of {0 ... n - 1} for each stream."""
        return self.choose(n, n)

    def shuffled(self, n: int, places: ArrayLike) -> NDArray[np.int64]:
        """``[T, k]``: what stands at ``places`` ``[k]`` of a random order of {0 ... n - 1}, at a cost that does not
        depend on n.

        The order is a Feistel network on the rows and columns of a table that is just large enough; what falls outside
        of {0 ... n - 1} goes through it again (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). All
        places together are an exact permutation; its law is not quite uniform for small n, where :meth:`permutation`
        is cheap.

        Raises:
            ValueError: if a place is not in {0 ... n - 1}.
        """
        place = np.asarray(places, dtype=np.uint64).reshape(-1)
        if place.size and int(place.max()) >= n:
            raise ValueError(f"places lie below {n}, got {int(place.max())}")
        keys = self.bits(_ROUNDS)
        rows = math.isqrt(max(n - 1, 0)) + 1
        columns = -(-n // rows)
        found = _feistel(np.broadcast_to(place, (len(self), len(place))), keys[:, None, :], rows, columns)
        while (outside := found >= n).any():
            task, _ = np.nonzero(outside)
            found[outside] = _feistel(found[outside], keys[task], rows, columns)
        return found.astype(np.int64)


def _feistel(x: NDArray[np.uint64], keys: NDArray[np.uint64], rows: int, columns: int) -> NDArray[np.uint64]:
    """A keyed permutation of {0 ... rows * columns - 1}; ``keys`` are ``[..., rounds]``."""
    left, right = x // np.uint64(columns), x % np.uint64(columns)
    for number in range(0, _ROUNDS, 2):
        left = (left + _mixed(right, keys[..., number])) % np.uint64(rows)
        right = (right + _mixed(left, keys[..., number + 1])) % np.uint64(columns)
    return left * np.uint64(columns) + right


def _mixed(x: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """32 bits that depend on all bits of x and of the key: the finalizer of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x ^ key) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) >> _SHIFT


def _philox(counter: NDArray[np.uint64], key: NDArray[np.uint64]) -> Sequence[NDArray[np.uint64]]:
    """Four 32-bit words, each held in 64 bits, from 64-bit counters (the upper 64 bits are zero) and 64-bit keys."""
    c0, c1 = counter & _LOW, counter >> _SHIFT
    c2, c3 = np.zeros_like(c0), np.zeros_like(c0)
    k0, k1 = key & _LOW, key >> _SHIFT
    for _ in range(10):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> _SHIFT) ^ c1 ^ k0,
            product1 & _LOW,
            (product0 >> _SHIFT) ^ c3 ^ k1,
            product0 & _LOW,
        )
        k0, k1 = (k0 + np.uint64(_WEYL[0])) & _LOW, (k1 + np.uint64(_WEYL[1])) & _LOW
    return c0, c1, c2, c3
