"""Random numbers that are a function of (key, index): any examples, in any order, at once.

A counter goes through SplitMix64's output function (Steele, Lea and Flood 2014) twice, so nothing
is remembered between calls, and a batch of examples takes a few operations on arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Numbers = NDArray[np.int64]


def _word(value: int) -> Words:
    return np.array(value, dtype=np.uint64)


_27, _30, _31, _11 = _word(27), _word(30), _word(31), _word(11)
_GAMMA, _LANE = _word(0x9E3779B97F4A7C15), _word(0xD1B54A32D192ED03)
_MULTIPLIER_1, _MULTIPLIER_2 = _word(0xBF58476D1CE4E5B9), _word(0x94D049BB133111EB)


def key_of(stream: int, seed: int) -> int:
    """A key for `Draws`: of a seed, for one purpose among several."""
    words = np.random.SeedSequence(seed, spawn_key=(stream,)).generate_state(1, np.uint64)
    return int(words[0])


class Draws:
    """Random numbers for examples; each call gives new ones, the same for the same order of calls.

    Args:
        key: see `key_of`.
        indices: of the examples, (n,), each from 0 to 2**63 - 1.
    """

    def __init__(self, key: int, indices: Numbers) -> None:
        self._rows = _mixed(_word(key) + indices.astype(np.uint64) * _GAMMA)[:, None]
        self._lane = 0

    def words(self, width: int) -> Words:
        """Uniform 64-bit words, (n, width)."""
        lanes = np.arange(self._lane + 1, self._lane + width + 1, dtype=np.uint64) * _LANE
        self._lane += width
        return _mixed(self._rows + lanes)

    def uniform(self, width: int) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1), (n, width)."""
        return (self.words(width) >> _11).astype(np.float64) * 2.0**-53

    def below(self, limit: int, width: int) -> Numbers:
        """Uniform numbers from 0 to `limit` - 1, (n, width); the bias is below limit / 2**64."""
        return (self.words(width) % _word(limit)).astype(np.int64)

    def normal(self, width: int) -> NDArray[np.float64]:
        """Standard normal numbers, (n, width), by Box and Muller (1958)."""
        radius = np.sqrt(-2 * np.log1p(-self.uniform(width)))
        return radius * np.cos(2 * np.pi * self.uniform(width))

    def order(self, size: int) -> Numbers:
        """Uniform permutations of 0 to `size` - 1, (n, size)."""
        return np.argsort(self.words(size), axis=1)

    def chosen(self, weights: NDArray[np.float64], count: int) -> Numbers:
        """`count` different places for each example, (n, count), one after the other with
        probability in proportion to their weights: those of the least exponential waiting times
        (Efraimidis and Spirakis 2006).
        """
        waits = -np.log1p(-self.uniform(len(weights))) / weights
        return np.argsort(waits, axis=1)[:, :count]


def _mixed(x: Words) -> Words:
    x = (x ^ (x >> _30)) * _MULTIPLIER_1
    x = (x ^ (x >> _27)) * _MULTIPLIER_2
    x = x ^ (x >> _31)
    x = (x ^ (x >> _30)) * _MULTIPLIER_1
    x = (x ^ (x >> _27)) * _MULTIPLIER_2
    return x ^ (x >> _31)
