"""Synthetic sequences: induction, associative recall, sorting, copying and closing brackets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from etude.data.objective import IGNORE
from etude.data.synthetic.arithmetic import next_token_arrays
from etude.data.synthetic.base import MAX_EXAMPLES, MAX_SYMBOLS, Arrays, SyntheticData
from etude.data.synthetic.draws import Draws, Numbers
from etude.errors import Checks


@dataclass(kw_only=True, eq=False)
class Induction(SyntheticData):
    """Induction: random tokens that repeat periodically, so that each token can be predicted from
    the token one period earlier.

    The period r of each sequence is drawn uniformly. The first r tokens are drawn uniformly; each
    later token i equals token i - r. Positions from r on have a label, the next token, which the
    tokens up to this position determine. To predict the label, a model must use at least two
    earlier positions, as induction heads do (Olsson et al. 2022, arXiv:2209.11895). If all
    sequences had the same period, attention to a fixed distance would suffice.

    Args:
        vocabulary: number of different tokens.
        periods: the smallest and the largest period.
        sequence_length: T, which must be more than the largest period.
        batch, training, validation, validate_training, data_seed, workers: see `SyntheticData`.
    """

    sequence_length: int = 48
    vocabulary: int = 64
    periods: tuple[int, int] = (8, 24)
    training: int | None = None
    validation: int = 1000

    def validate(self, checks: Checks) -> None:
        vocabulary, (low, high) = self.vocabulary, self.periods
        fits = 1 < vocabulary <= MAX_SYMBOLS
        checks.that(fits, "vocabulary", vocabulary, f"a number of tokens from 2 to {MAX_SYMBOLS:,}")
        expected = "two positive numbers, the smaller first"
        checks.that(0 < low <= high, "periods", list(self.periods), expected)
        length, expected = self.sequence_length, f"more than the largest period, {high}"
        checks.that(high < length, "sequence_length", length, expected)
        super().validate(checks)

    @property
    def symbols(self) -> list[str]:
        return [*map(str, range(self.vocabulary))]

    def settings(self) -> dict[str, object]:
        return {"vocabulary": self.vocabulary, "periods": list(self.periods)}

    def drawn(self, draws: Draws, count: int) -> Arrays:
        low, high = self.periods
        period = low + draws.below(high - low + 1, 1)
        first = draws.below(self.vocabulary, high)
        positions = np.arange(self.sequence_length + 1)
        whole = np.take_along_axis(first, positions % period, axis=1)
        labels = np.where(positions[:-1] >= period, whole[:, 1:], IGNORE)
        return {"tokens": whole[:, :-1].copy(), "labels": labels}


@dataclass(kw_only=True, eq=False)
class Recall(SyntheticData):
    """Multi-query associative recall: keys with their values, then each key again (a query), with
    its value as the target (Arora et al. 2023, Zoology, arXiv:2312.04927, section 4 and appendix).

    A sequence begins with `pairs` keys, each followed by its value. Keys are tokens from 1 to
    V / 2 - 1, all different within a sequence; values are tokens from V / 2 to V - 1. Every second
    position after the pairs can hold a query, beginning with the first. The k-th of these positions
    is selected with a probability in proportion to k**(power - 1), so that most queries come soon
    after the pairs. All other positions have token 0, or random tokens if `random_gaps` is true.
    The value of a query is only a label, at the position of the query.

    Args:
        vocabulary: V, the number of different tokens, which must be even.
        pairs: number of keys in a sequence.
        power: exponent of the distribution of the query positions.
        random_gaps: whether positions without a query have random tokens. A random token can be a
            key; it then looks like a query, but has no target, and any token may follow it.
        sequence_length: T, which must be at least 4 * `pairs`.
        batch, training, validation, validate_training, data_seed, workers: see `SyntheticData`.
    """

    sequence_length: int = 64
    vocabulary: int = 256
    pairs: int = 4
    power: float = 0.01
    random_gaps: bool = False
    training: int | None = 10000
    validation: int = 1000

    def validate(self, checks: Checks) -> None:
        vocabulary, pairs = self.vocabulary, self.pairs
        checks.positive(pairs=pairs, power=self.power)
        enough = vocabulary % 2 == 0 and max(pairs, 1) < vocabulary // 2 <= MAX_SYMBOLS // 2
        expected = f"an even number above {2 * pairs}, at most {MAX_SYMBOLS:,}"
        checks.that(enough, "vocabulary", vocabulary, expected)
        length = self.sequence_length
        expected = f"at least 4 * pairs = {4 * pairs} (2 * pairs positions for keys and values, "
        expected += "2 * pairs for queries)"
        checks.that(length >= 4 * pairs, "sequence_length", length, expected)
        super().validate(checks)

    @property
    def symbols(self) -> list[str]:
        half = self.vocabulary // 2
        keys = [f"k{number}" for number in range(1, half)]
        return ["_", *keys, *(f"v{number}" for number in range(half))]

    def settings(self) -> dict[str, object]:
        return {
            "vocabulary": self.vocabulary,
            "pairs": self.pairs,
            "power": self.power,
            "random_gaps": self.random_gaps,
        }

    @cached_property
    def _weights(self) -> np.ndarray:
        """The unnormalized probability of each position that can hold a query, in order."""
        positions = np.arange(1, (self.sequence_length - 2 * self.pairs) // 2 + 1)
        return self.power * positions ** (self.power - 1.0)

    def drawn(self, draws: Draws, count: int) -> Arrays:
        half, begin = self.vocabulary // 2, 2 * self.pairs
        keys = 1 + draws.order(half - 1)[:, : self.pairs]
        values = half + draws.order(half)[:, : self.pairs]
        positions = begin + 2 * draws.weighted_choice(self._weights, self.pairs)
        shape = (count, self.sequence_length)
        if self.random_gaps:
            tokens = draws.below(self.vocabulary, self.sequence_length)
        else:
            tokens = np.zeros(shape, dtype=np.int64)
        tokens[:, 0:begin:2], tokens[:, 1:begin:2] = keys, values
        labels = np.full(shape, IGNORE, dtype=np.int64)
        np.put_along_axis(tokens, positions, keys, axis=1)
        np.put_along_axis(labels, positions, values, axis=1)
        return {"tokens": tokens, "labels": labels}


@dataclass(kw_only=True, eq=False)
class Sort(SyntheticData):
    """Sorting: symbols, followed by the same symbols in ascending order, as in minGPT's
    demonstration (Karpathy 2020).

    The labels are the sorted symbols. There are `numbers` ** `length` examples. Token ids: the
    symbols are the numbers from 0 to `numbers` - 1.

    Args:
        length: number of symbols to sort.
        numbers: number of different symbols.
        sequence_length: must be 2 * `length` - 1; the last symbol is only a label.
        batch, training, validation, validate_training, data_seed, workers: see `SyntheticData`.
    """

    answers_last = True

    sequence_length: int = 11
    length: int = 6
    numbers: int = 3
    training: int | float | None = None
    validation: int | float = 0.25

    def validate(self, checks: Checks) -> None:
        length, numbers = self.length, self.numbers
        checks.positive(length=length)
        expected = f"an integer from 2 to {MAX_SYMBOLS:,}"
        some = checks.that(1 < numbers <= MAX_SYMBOLS, "numbers", numbers, expected)
        fits = some and 0 < length < 62 and numbers**length < MAX_EXAMPLES
        checks.that(fits, "length", length, "a positive length with numbers**length below 2**62")
        self.size = numbers**length if fits else 1
        stated, expected = self.sequence_length, f"2 * length - 1 = {2 * length - 1}"
        checks.that(stated == 2 * length - 1, "sequence_length", stated, expected)
        super().validate(checks)

    @property
    def symbols(self) -> list[str]:
        return [*map(str, range(self.numbers))]

    def settings(self) -> dict[str, object]:
        return {"length": self.length, "numbers": self.numbers}

    def numbered(self, numbers: Numbers) -> Arrays:
        powers = self.numbers ** np.arange(self.length, dtype=np.int64)
        unsorted = numbers[:, None] // powers % self.numbers
        whole = np.concatenate([unsorted, np.sort(unsorted, axis=1)], axis=1)
        return next_token_arrays(whole, answers=self.length)


@dataclass(kw_only=True, eq=False)
class Copy(SyntheticData):
    """Copying: random symbols, a separator, and the same symbols again, which are the labels.

    Token ids: 0 to `vocabulary` - 1 are the symbols, `vocabulary` is the separator.

    Args:
        length: number of symbols to copy.
        vocabulary: number of different symbols.
        backwards: whether the copy is reversed.
        sequence_length: must be 2 * `length`; the last symbol is only a label.
        batch, training, validation, validate_training, data_seed, workers: see `SyntheticData`.
    """

    answers_last = True

    sequence_length: int = 32
    length: int = 16
    vocabulary: int = 16
    backwards: bool = False
    training: int | None = None
    validation: int = 1000

    def validate(self, checks: Checks) -> None:
        checks.positive(length=self.length)
        fits = 1 < self.vocabulary <= MAX_SYMBOLS
        expected = f"a number of symbols from 2 to {MAX_SYMBOLS:,}"
        checks.that(fits, "vocabulary", self.vocabulary, expected)
        stated, length = self.sequence_length, 2 * self.length
        checks.that(stated == length, "sequence_length", stated, f"2 * length = {length}")
        super().validate(checks)

    @property
    def symbols(self) -> list[str]:
        return [*map(str, range(self.vocabulary)), ":"]

    def settings(self) -> dict[str, object]:
        return {
            "length": self.length,
            "vocabulary": self.vocabulary,
            "backwards": self.backwards,
        }

    def drawn(self, draws: Draws, count: int) -> Arrays:
        symbols = draws.below(self.vocabulary, self.length)
        separator = np.full((count, 1), self.vocabulary, dtype=np.int64)
        copied = symbols[:, ::-1] if self.backwards else symbols
        whole = np.concatenate([symbols, separator, copied], axis=1)
        return next_token_arrays(whole, answers=self.length)


@dataclass(kw_only=True, eq=False)
class Dyck(SyntheticData):
    """Nested brackets of k types, of which at most m are open at a time: the language Dyck-(k, m)
    of Hewitt et al. 2020, arXiv:2010.07515.

    The labels are the closing brackets; each has the type of the last open bracket. Token ids: the
    k opening brackets, then the k closing brackets. A sequence has T + 1 brackets. At each position
    where a bracket can either open or close, it opens with probability 1/2. At the end of a
    sequence, all brackets are closed.

    Args:
        kinds: k, the number of bracket types.
        depth: m, the maximum number of open brackets.
        sequence_length: T, an odd number; the last bracket is only a label.
        batch, training, validation, validate_training, data_seed, workers: see `SyntheticData`.
    """

    sequence_length: int = 63
    kinds: int = 4
    depth: int = 5
    training: int | None = None
    validation: int = 1000

    def validate(self, checks: Checks) -> None:
        checks.positive(kinds=self.kinds, depth=self.depth)
        few = self.kinds <= MAX_SYMBOLS // 2
        checks.that(few, "kinds", self.kinds, f"at most {MAX_SYMBOLS // 2:,} bracket types")
        odd = self.sequence_length % 2 == 1
        expected = "an odd number (a sequence has sequence_length + 1 brackets, in pairs)"
        checks.that(odd, "sequence_length", self.sequence_length, expected)
        super().validate(checks)

    @property
    def symbols(self) -> list[str]:
        return [f"{mark}{kind}" for mark in "()" for kind in range(self.kinds)]

    def settings(self) -> dict[str, object]:
        return {"kinds": self.kinds, "depth": self.depth}

    def drawn(self, draws: Draws, count: int) -> Arrays:
        length = self.sequence_length + 1
        coins, kinds = draws.uniform(length) < 0.5, draws.below(self.kinds, length)
        whole = np.empty((count, length), dtype=np.int64)
        # types of the open brackets
        opened = np.zeros((count, min(self.depth, length)), dtype=np.int64)
        depth, rows = np.zeros(count, dtype=np.int64), np.arange(count)
        for position in range(length):
            remaining = length - position
            opens = (depth == 0) | (coins[:, position] & (depth < self.depth) & (depth < remaining))
            top = opened[rows, np.maximum(depth - 1, 0)]
            whole[:, position] = np.where(opens, kinds[:, position], self.kinds + top)
            opening = rows[opens]
            opened[opening, depth[opening]] = kinds[opening, position]
            depth += np.where(opens, 1, -1)
        labels = np.where(whole[:, 1:] >= self.kinds, whole[:, 1:], IGNORE)
        return {"tokens": whole[:, :-1].copy(), "labels": labels}
