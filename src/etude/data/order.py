"""Orders: the windows of text in each optimizer step, as stateless functions of (seed, step).

A window of `length` + 1 tokens gives `length` inputs and `length` targets. An order returns the
position of the first token of each window in a step. It keeps no state between steps, so a run
reads the same windows when it is stopped and resumed, and with any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from etude.errors import Checks

# Tags of the streams of random numbers that share a run's seed.
WINDOWS_STREAM = 0x57494E44
EPOCHS_STREAM = 0x45504F43
ROUNDS = 6

Words = NDArray[np.uint64]


def _words(value: int) -> Words:
    # NumPy is twice as fast with a 0-d array as with a Python integer.
    return np.array(value, dtype=np.uint64)


_27, _30, _31 = _words(27), _words(30), _words(31)
_MULTIPLIER_1, _MULTIPLIER_2 = _words(0xBF58476D1CE4E5B9), _words(0x94D049BB133111EB)


class Order(Protocol):
    """Protocol of orders, which select the windows of each optimizer step."""

    def starts(self, step: int) -> NDArray[np.int64]:
        """Returns the position in the split at which each window of an optimizer step begins.

        The shape is (number of windows in a step,).

        Args:
            step: number of the optimizer step, from 0.
        """

    def windows(self, step: int, first: int, count: int) -> NDArray[np.int64]:
        """Returns the position of the first token of each window of an optimizer step.

        The position is the token's index in the split. The shape is (count,). The number of windows
        may differ between steps.

        Args:
            step: number of the optimizer step, from 0.
            first: number of windows in all earlier steps.
            count: number of windows in the step.
        """


@dataclass(frozen=True)
class RandomWindows:
    """Order of windows drawn uniformly, with replacement, from all `tokens - length` positions.

    Args:
        tokens: number of tokens in the split.
        length: number of targets in a window.
        batch: number of windows in an optimizer step.
        seed: the run's seed, not negative.
    """

    tokens: int
    length: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        _check(self.tokens, self.length, self.batch, self.seed)

    def starts(self, step: int) -> NDArray[np.int64]:
        """Returns the positions in the split at which the windows of step `step` begin."""
        return self.windows(step, step * self.batch, self.batch)

    def windows(self, step: int, first: int, count: int) -> NDArray[np.int64]:
        """Returns the positions in the split at which `count` windows of a step begin.

        Args:
            step: number of the optimizer step, from 0, which determines the windows.
            first: not used.
            count: number of windows in the step.
        """
        # Raw Philox words rather than a Generator's integers: NumPy guarantees their stability.
        # The remainder's bias is below tokens / 2**64.
        words = np.random.Philox(_entropy(WINDOWS_STREAM, self.seed, step)).random_raw(count)
        return (words % (self.tokens - self.length)).astype(np.int64)


@dataclass(frozen=True)
class EveryExampleOnce:
    """Order of windows that don't overlap, reshuffled each epoch.

    An epoch has n = `(tokens - 1) // length` windows. Example g of the run, counted from 0 over all
    steps, is window `permutation(g mod n)` of epoch `g // n`; a step may contain the last windows
    of one epoch and the first of the next.

    Args:
        tokens: number of tokens in the split.
        length: number of targets in a window.
        batch: number of windows in an optimizer step.
        seed: the run's seed, not negative.
    """

    tokens: int
    length: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        _check(self.tokens, self.length, self.batch, self.seed)

    @property
    def examples(self) -> int:
        """Number of windows in an epoch."""
        return (self.tokens - 1) // self.length

    def starts(self, step: int) -> NDArray[np.int64]:
        """Returns the positions in the split at which the windows of step `step` begin."""
        return self.windows(step, step * self.batch, self.batch)

    def windows(self, step: int, first: int, count: int) -> NDArray[np.int64]:
        """Returns the positions in the split at which `count` windows of a step begin.

        Args:
            step: not used.
            first: number of windows in all earlier steps, which determines the windows.
            count: number of windows in the step.
        """
        examples = self.examples
        result = np.empty(count, dtype=np.int64)
        done = 0
        while done < count:
            epoch, begin = divmod(first + done, examples)
            chunk = min(count - done, examples - begin)
            positions = np.arange(begin, begin + chunk, dtype=np.uint64)
            keys = round_keys(EPOCHS_STREAM, self.seed, epoch)
            result[done : done + chunk] = permute(positions, examples, keys)
            done += chunk
        result *= self.length
        return result


def permute(index: Words, size: int, keys: Words) -> Words:
    """Returns the values of a keyed permutation of {0, ..., size - 1} at the positions `index`.

    This is the generalised Feistel cipher with cycle walking of Black and Rogaway, "Ciphers with
    arbitrary finite domains" (2002), method 3: x = (left, right) in Z_a x Z_b with a =
    ceil(sqrt(size)) and b = ceil(size / a); in turn left += F(right) mod a and right += F(left) mod
    b, where F is a hash that depends on the round's key. Since a * b exceeds `size` by less than a,
    few results are `size` or larger; those are enciphered again until they are smaller.

    Args:
        index: positions to permute, each below `size`, any shape.
        size: length of the permuted list, below 2**63.
        keys: one 64-bit key per round.
    """
    root = isqrt(size - 1) + 1
    a, b, end = _words(root), _words(-(-size // root)), _words(size)
    result = _encipher(index, a, b, keys)
    while (outside := result >= end).any():
        result[outside] = _encipher(result[outside], a, b, keys)
    return result


def _encipher(index: Words, a: Words, b: Words, keys: Words) -> Words:
    left, right = np.divmod(index, b)
    for number, key in enumerate(keys):
        if number % 2 == 0:
            left = (left + _hash(right ^ key)) % a
        else:
            right = (right + _hash(left ^ key)) % b
    return left * b + right


def _hash(x: Words) -> Words:
    """Returns a hash of 33 bits for each 64-bit word.

    With only 33 bits, the additions in `_encipher` can't overflow. The shifts and multipliers are
    those of SplitMix64 (Steele, Lea and Flood 2014).
    """
    x = (x ^ (x >> _30)) * _MULTIPLIER_1
    x = (x ^ (x >> _27)) * _MULTIPLIER_2
    return x >> _31


@lru_cache(maxsize=64)
def round_keys(stream: int, seed: int, index: int) -> Words:
    """Returns the `ROUNDS` random 64-bit keys for a permutation by `permute`.

    Args:
        stream: constant that separates these random numbers from others of the same seed.
        seed: the run's seed.
        index: number of the permutation, such as the epoch.
    """
    return np.random.Philox(_entropy(stream, seed, index)).random_raw(ROUNDS)


def _entropy(stream: int, seed: int, index: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(stream, index))


ORDERS: dict[str, Callable[[int, int, int, int], Order]] = {
    "windows": RandomWindows,
    "epochs": EveryExampleOnce,
}


def _check(tokens: int, length: int, batch: int, seed: int) -> None:
    checks = Checks()
    checks.positive(length=length, batch=batch)
    checks.that(tokens > length, "tokens", tokens, f"a number above length = {length}")
    checks.that(seed >= 0, "seed", seed, "a non-negative number")
    checks.done()
