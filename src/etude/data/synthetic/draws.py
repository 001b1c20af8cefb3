"""Random numbers that depend only on a key and the index of an example.

So they can be computed for any examples in any order. Each number is a hash of the key, the index
and a counter: the output function of SplitMix64 (Steele, Lea and Flood 2014) is applied twice. A
few array operations compute the numbers of a batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Numbers = NDArray[np.int64]


def _to_word(value: int) -> Words:
    return np.array(value, dtype=np.uint64)


_27, _30, _31, _11 = _to_word(27), _to_word(30), _to_word(31), _to_word(11)
_GAMMA, _LANE = _to_word(0x9E3779B97F4A7C15), _to_word(0xD1B54A32D192ED03)
_MULTIPLIER_1, _MULTIPLIER_2 = _to_word(0xBF58476D1CE4E5B9), _to_word(0x94D049BB133111EB)


def stream_key(stream: int, seed: int) -> int:
    """Returns the integer that `Draws` needs as its argument `key`, computed from a seed.

    Args:
        stream: integer that identifies what the random numbers are used for, such as validation
            examples. Different streams yield independent random numbers.
        seed: seed of a run or of the data.
    """
    words = np.random.SeedSequence(seed, spawn_key=(stream,)).generate_state(1, np.uint64)
    return int(words[0])


class Draws:
    """Random numbers for a batch of n examples.

    Each call of a method returns new numbers, with a row for each of the n examples. They depend
    only on the key, the indices and the earlier calls.

    Args:
        key: see `stream_key`.
        indices: index of each example, from 0 to 2**63 - 1, as an array of shape (n,).
    """

    def __init__(self, key: int, indices: Numbers) -> None:
        self._rows = _mix(_to_word(key) + indices.astype(np.uint64) * _GAMMA)[:, None]
        self._lane = 0

    def words(self, width: int) -> Words:
        """Returns uniformly distributed unsigned 64-bit integers, of shape (examples, width)."""
        lanes = np.arange(self._lane + 1, self._lane + width + 1, dtype=np.uint64) * _LANE
        self._lane += width
        return _mix(self._rows + lanes)

    def uniform(self, width: int) -> NDArray[np.float64]:
        """Returns uniformly distributed numbers in [0, 1), of shape (examples, width)."""
        return (self.words(width) >> _11).astype(np.float64) * 2.0**-53

    def below(self, limit: int, width: int) -> Numbers:
        """Returns uniformly distributed integers from 0 to `limit` - 1, of shape (examples, width).

        The probability of an integer differs from 1 / limit by less than 2**-64. The limit may be
        at most 2**63.
        """
        return (self.words(width) % _to_word(limit)).astype(np.int64)

    def normal(self, width: int) -> NDArray[np.float64]:
        """Returns numbers with a standard normal distribution, of shape (examples, width).

        The method is that of Box and Muller (1958).
        """
        radius = np.sqrt(-2 * np.log1p(-self.uniform(width)))
        return radius * np.cos(2 * np.pi * self.uniform(width))

    def order(self, size: int) -> Numbers:
        """Returns, for each example, a random permutation of 0 to `size` - 1.

        All permutations are equally probable. The result has the shape (n, size).
        """
        return np.argsort(self.words(size), axis=1)

    def weighted_choice(self, weights: NDArray[np.float64], count: int) -> Numbers:
        """Returns, for each example, `count` different random indices of the array `weights`.

        The indices are sampled without replacement, with probabilities in proportion to the
        weights: each index draws an exponential waiting time, whose rate is its weight, and the
        smallest times are selected (Efraimidis and Spirakis 2006). The indices are in the order of
        these times. The result has the shape (n, count).
        """
        waits = -np.log1p(-self.uniform(len(weights))) / weights
        return np.argsort(waits, axis=1)[:, :count]


def _mix(x: Words) -> Words:
    x = (x ^ (x >> _30)) * _MULTIPLIER_1
    x = (x ^ (x >> _27)) * _MULTIPLIER_2
    x = x ^ (x >> _31)
    x = (x ^ (x >> _30)) * _MULTIPLIER_1
    x = (x ^ (x >> _27)) * _MULTIPLIER_2
    return x ^ (x >> _31)
