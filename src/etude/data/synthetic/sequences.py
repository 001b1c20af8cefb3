"""Sequences to repeat, to look things up in, to sort, and to close brackets in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from etude.data.objective import IGNORE
from etude.data.synthetic.arithmetic import sequence
from etude.data.synthetic.base import LARGEST, SYMBOLS, Arrays, SyntheticData
from etude.data.synthetic.draws import Draws, Numbers
from etude.errors import Checks


@dataclass(kw_only=True, eq=False)
class Induction(SyntheticData):
    """Random tokens that are repeated: what followed a token before follows it again.

    A sequence has a period r, drawn uniformly for each; its first r tokens are uniform, and token i
    is token i - r from there on. A label stands wherever the token itself has been seen one period
    ago, from place r on: all of them are certain, and none can be told from less than two places,
    as induction heads do (Olsson et al. 2022, arXiv:2209.11895). With one period for all sequences
    attention to a fixed distance would do.

    Args:
        vocabulary: how many tokens there are.
        periods: the least period and the largest.
        sequence_length: T, more than the largest period.
        batch, training, validation, validate_training, data_seed, workers: see `SyntheticData`.
    """

    sequence_length: int = 48
    vocabulary: int = 64
    periods: tuple[int, int] = (8, 24)
    training: int | None = None
    validation: int = 1000

    def validate(self, checks: Checks) -> None:
        vocabulary, (low, high) = self.vocabulary, self.periods
        fits = 1 < vocabulary <= SYMBOLS
        checks.that(fits, "vocabulary", vocabulary, f"2 to {SYMBOLS:,} tokens")
        expected = "the least and the largest period"
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
        places = np.arange(self.sequence_length + 1)
        whole = np.take_along_axis(first, places % period, axis=1)
        labels = np.where(places[:-1] >= period, whole[:, 1:], IGNORE)
        return {"tokens": whole[:, :-1].copy(), "labels": labels}


@dataclass(kw_only=True, eq=False)
class Recall(SyntheticData):
    """Multi-query associative recall: keys with their values, and later each key once more, whose
    value is to be said (Arora et al. 2023, Zoology, arXiv:2312.04927, section 4 and appendix).

    A sequence begins with `pairs` keys, each followed by its value. A key is one of the tokens 1 to
    V / 2 - 1, all different in a sequence, a value one of V / 2 to V - 1. Of the places behind them
    every other one may have a query; the k-th such place is taken with a chance in proportion to
    k**(power - 1), so that most queries come soon. All other places have token 0, or any token with
    `random_gaps`.

    Args:
        vocabulary: V, even.
        pairs: keys in a sequence.
        power: of the places of queries.
        random_gaps: random tokens where nothing is asked; a key among them is no query, but follows
            like one and may be followed by another value.
        sequence_length: T, at least 4 `pairs`.
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
        enough = vocabulary % 2 == 0 and max(pairs, 1) < vocabulary // 2 <= SYMBOLS // 2
        expected = f"an even number above {2 * pairs}, at most {SYMBOLS:,}"
        checks.that(enough, "vocabulary", vocabulary, expected)
        length = self.sequence_length
        expected = f"at least 4 pairs = {4 * pairs}: each key stands there twice, and its value"
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
        places = np.arange(1, (self.sequence_length - 2 * self.pairs) // 2 + 1)
        return self.power * places ** (self.power - 1.0)

    def drawn(self, draws: Draws, count: int) -> Arrays:
        half, begin = self.vocabulary // 2, 2 * self.pairs
        keys = 1 + draws.order(half - 1)[:, : self.pairs]
        values = half + draws.order(half)[:, : self.pairs]
        places = begin + 2 * draws.chosen(self._weights, self.pairs)
        shape = (count, self.sequence_length)
        if self.random_gaps:
            tokens = draws.below(self.vocabulary, self.sequence_length)
        else:
            tokens = np.zeros(shape, dtype=np.int64)
        tokens[:, 0:begin:2], tokens[:, 1:begin:2] = keys, values
        labels = np.full(shape, IGNORE, dtype=np.int64)
        np.put_along_axis(tokens, places, keys, axis=1)
        np.put_along_axis(labels, places, values, axis=1)
        return {"tokens": tokens, "labels": labels}


@dataclass(kw_only=True, eq=False)
class Sort(SyntheticData):
    """Symbols and the same in order, as in minGPT's demonstration (Karpathy 2020); the labels are
    the sorted ones. All `symbols_count` ** `length` inputs.

    Ids: the numbers. T = 2 `length` - 1: the last is a label alone.

    Args:
        length: of what is to be sorted.
        numbers: how many different ones there are.
        sequence_length: 2 `length` - 1.
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
        some = checks.that(1 < numbers <= SYMBOLS, "numbers", numbers, f"2 to {SYMBOLS:,}")
        fits = some and 0 < length < 62 and numbers**length < LARGEST
        checks.that(fits, "length", length, "numbers ** length below 2**62")
        self.size = numbers**length if fits else 1
        stated, expected = self.sequence_length, f"2 length - 1 = {2 * length - 1}"
        checks.that(stated == 2 * length - 1, "sequence_length", stated, expected)
        super().validate(checks)

    @property
    def symbols(self) -> list[str]:
        return [*map(str, range(self.numbers))]

    def settings(self) -> dict[str, object]:
        return {"length": self.length, "numbers": self.numbers}

    def numbered(self, numbers: Numbers) -> Arrays:
        powers = self.numbers ** np.arange(self.length, dtype=np.int64)
        given = numbers[:, None] // powers % self.numbers
        whole = np.concatenate([given, np.sort(given, axis=1)], axis=1)
        return sequence(whole, answers=self.length)


@dataclass(kw_only=True, eq=False)
class Copy(SyntheticData):
    """Random symbols, a separator, and the same symbols once more, which are the labels.

    Ids: the symbols, then the separator. T = 2 `length`.

    Args:
        length: of what is copied.
        vocabulary: symbols.
        backwards: the copy is the last symbol first.
        sequence_length: 2 `length`.
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
        fits = 1 < self.vocabulary <= SYMBOLS
        checks.that(fits, "vocabulary", self.vocabulary, f"2 to {SYMBOLS:,} symbols")
        stated, length = self.sequence_length, 2 * self.length
        checks.that(stated == length, "sequence_length", stated, f"2 length = {length}")
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
        given = draws.below(self.vocabulary, self.length)
        between = np.full((count, 1), self.vocabulary, dtype=np.int64)
        again = given[:, ::-1] if self.backwards else given
        return sequence(np.concatenate([given, between, again], axis=1), answers=self.length)


@dataclass(kw_only=True, eq=False)
class Dyck(SyntheticData):
    """Brackets of several kinds that close in order, at most so many open at a time: the language
    Dyck-(k, m) of Hewitt et al. 2020, arXiv:2010.07515. The labels are the closing ones, whose
    kind is that of the latest that is open.

    Ids: the k opening brackets, then the k closing ones. Of words of T + 1 brackets each place has
    an opening one by the toss of a coin, where both are possible.

    Args:
        kinds: k.
        depth: m.
        sequence_length: T, odd: the last bracket is a label alone.
        batch, training, validation, validate_training, data_seed, workers: see `SyntheticData`.
    """

    sequence_length: int = 63
    kinds: int = 4
    depth: int = 5
    training: int | None = None
    validation: int = 1000

    def validate(self, checks: Checks) -> None:
        checks.positive(kinds=self.kinds, depth=self.depth)
        few = self.kinds <= SYMBOLS // 2
        checks.that(few, "kinds", self.kinds, f"at most {SYMBOLS // 2:,}")
        odd = self.sequence_length % 2 == 1
        expected = "an odd number: a word has as many closing brackets as opening ones"
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
        opened = np.zeros((count, min(self.depth, length)), dtype=np.int64)  # the open kinds
        depth, rows = np.zeros(count, dtype=np.int64), np.arange(count)
        for place in range(length):
            left = length - place
            opens = (depth == 0) | (coins[:, place] & (depth < self.depth) & (depth < left))
            top = opened[rows, np.maximum(depth - 1, 0)]
            whole[:, place] = np.where(opens, kinds[:, place], self.kinds + top)
            there = rows[opens]
            opened[there, depth[there]] = kinds[there, place]
            depth += np.where(opens, 1, -1)
        labels = np.where(whole[:, 1:] >= self.kinds, whole[:, 1:], IGNORE)
        return {"tokens": whole[:, :-1].copy(), "labels": labels}
