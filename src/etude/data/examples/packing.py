"""Packing of short examples into long sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etude.data.columns import Numbers

TRIALS = 5


def pack_examples(sizes: Sequence[Sequence[int]], capacity: int) -> list[list[int]]:
    """Distributes examples over packed sequences; returns the indices of each sequence's examples.

    The examples are placed from the longest to the shortest, each in the first sequence with enough
    room, or else in a new sequence ("first fit decreasing", Johnson 1973). Then this is
    repeated with the smallest capacity, to within a few per cent, for which the number of sequences
    stays the same, so that the last sequence does not consist mostly of padding.

    Args:
        sizes: for each example (at least one), the lengths of its arrays: one array, or several
            such as source and target. `capacity` applies to each array separately.
        capacity: number of positions of a sequence. A longer example is a sequence by itself.
    """
    each = np.asarray(sizes, dtype=np.int64).reshape(len(sizes), -1)
    sequences = _first_fit(each, capacity)
    low = max(int(each.max()), -(-int(each.sum(0).max()) // len(sequences)))
    for _ in range(TRIALS):
        if low >= capacity:
            break
        middle = (low + capacity) // 2
        packed = _first_fit(each, middle)
        if len(packed) <= len(sequences):
            sequences, capacity = packed, middle
        else:
            low = middle + 1
    return sequences


def _first_fit(each: Numbers, capacity: int) -> list[list[int]]:
    sequences: list[list[int]] = []
    left: Numbers = np.empty(each.shape, dtype=np.int64)
    for index in np.argsort(-each.max(1), kind="stable").tolist():
        fits = (left[: len(sequences)] >= each[index]).all(1)
        sequence = int(fits.argmax()) if fits.any() else len(sequences)
        if sequence == len(sequences):
            sequences.append([])
            left[sequence] = capacity
        sequences[sequence].append(index)
        left[sequence] -= each[index]
    return sequences
