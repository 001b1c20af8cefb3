"""Which windows of the text make up an optimizer step: functions of (seed, step), no state.

A window of `length` + 1 tokens gives `length` inputs and `length` targets. An order names the
first token of each of the step's windows. Nothing is remembered between steps, so a run that
is stopped, continued, or read by any number of workers meets the same windows.
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

# Streams of random numbers that share a run's seed are told apart by a tag.
WINDOWS_STREAM = 0x57494E44
EPOCHS_STREAM = 0x45504F43
ROUNDS = 6

Words = NDArray[np.uint64]


def _words(value: int) -> Words:
    # NumPy works on an array without dimensions twice as fast as on a Python integer.
    return np.array(value, dtype=np.uint64)


_27, _30, _31 = _words(27), _words(30), _words(31)
_MULTIPLIER_1, _MULTIPLIER_2 = _words(0xBF58476D1CE4E5B9), _words(0x94D049BB133111EB)


class Order(Protocol):
    """The windows of each optimizer step."""

    def starts(self, step: int) -> NDArray[np.int64]:
        """The first token of each window of optimizer step `step` (from 0), shape (batch,)."""

    def windows(self, step: int, first: int, count: int) -> NDArray[np.int64]:
        """The same of a step that takes `count` windows, after `first` of all steps before."""


@dataclass(frozen=True)
class RandomWindows:
    """Windows drawn uniformly, with replacement, from all `tokens - length` places.

    Args:
        tokens: tokens in the split.
        length: targets in a window.
        batch: windows in an optimizer step.
        seed: the run's seed, not negative.
    """

    tokens: int
    length: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        _check(self.tokens, self.length, self.batch, self.seed)

    def starts(self, step: int) -> NDArray[np.int64]:
        """The first token of each window of optimizer step `step`, shape (batch,)."""
        return self.windows(step, step * self.batch, self.batch)

    def windows(self, step: int, first: int, count: int) -> NDArray[np.int64]:
        """The same of a step of any size; what was read before plays no part."""
        # Raw Philox words rather than a Generator's integers: NumPy promises the former for good.
        # The remainder's bias is below tokens / 2**64.
        words = np.random.Philox(_entropy(WINDOWS_STREAM, self.seed, step)).random_raw(count)
        return (words % (self.tokens - self.length)).astype(np.int64)


@dataclass(frozen=True)
class EveryExampleOnce:
    """The split cut into `(tokens - 1) // length` windows that don't overlap, reshuffled an epoch.

    Example g of the run, counted from 0 over all steps, is window `permutation(g mod n)` of epoch
    `g // n`; a step may take the last windows of one epoch and the first of the next.

    Args:
        tokens: tokens in the split.
        length: targets in a window.
        batch: windows in an optimizer step.
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
        """Windows in an epoch."""
        return (self.tokens - 1) // self.length

    def starts(self, step: int) -> NDArray[np.int64]:
        """The first token of each window of optimizer step `step`, shape (batch,)."""
        return self.windows(step, step * self.batch, self.batch)

    def windows(self, step: int, first: int, count: int) -> NDArray[np.int64]:
        """The same of the `count` examples after the first ones of the run; the step plays no
        part.
        """
        examples = self.examples
        result = np.empty(count, dtype=np.int64)
        done = 0
        while done < count:
            epoch, begin = divmod(first + done, examples)
            some = min(count - done, examples - begin)
            places = np.arange(begin, begin + some, dtype=np.uint64)
            keys = round_keys(EPOCHS_STREAM, self.seed, epoch)
            result[done : done + some] = permute(places, examples, keys)
            done += some
        result *= self.length
        return result


def permute(index: Words, size: int, keys: Words) -> Words:
    """A keyed permutation of {0, ..., size - 1}, evaluated at `index` alone.

    The generalised Feistel cipher with cycle walking of Black and Rogaway, "Ciphers with
    arbitrary finite domains" (2002), method 3: x = (left, right) in Z_a x Z_b with
    a = ceil(sqrt(size)) and b = ceil(size / a); in turn left += F(right) mod a and
    right += F(left) mod b. Since a * b exceeds `size` by less than a, few values fall outside;
    those are enciphered again until they fall inside.

    Args:
        index: places to permute, each below `size`, any shape.
        size: the length of the list that is permuted, below 2**63.
        keys: one 64-bit key a round.
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
    """33 well-spread bits of each 64-bit word: few enough that adding a half can't overflow.

    The shifts and multipliers are SplitMix64's (Steele, Lea and Flood 2014).
    """
    x = (x ^ (x >> _30)) * _MULTIPLIER_1
    x = (x ^ (x >> _27)) * _MULTIPLIER_2
    return x >> _31


@lru_cache(maxsize=64)
def round_keys(stream: int, seed: int, index: int) -> Words:
    """Keys for `permute`: a function of a run's seed, of what is permuted, and of its number."""
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
    checks.that(tokens > length, "tokens", tokens, f"more than length = {length} tokens")
    checks.that(seed >= 0, "seed", seed, "a number from 0 on")
    checks.done()
