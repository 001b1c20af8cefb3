"""Short examples into long sequences: which stand together in one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etude.data.columns import Numbers

TRIALS = 5


def pack_examples(sizes: Sequence[Sequence[int]], capacity: int) -> list[list[int]]:
    """The examples of each sequence, by number: the longest first, each into the first sequence
    that has room for it, or a new one ("first fit decreasing", Johnson 1973).

    They get as little room as gives the same number of sequences, to a few per cent: so the last
    is not nearly empty, which would be padding.

    Args:
        sizes: of each example; those of several arrays, as a source's and a target's, each have
            `room` of their own.
        room: of a sequence. A longer example stands alone.
    """
    each = np.asarray(sizes, dtype=np.int64).reshape(len(sizes), -1)
    rows = _first_fit(each, capacity)
    low = max(int(each.max()), -(-int(each.sum(0).max()) // len(rows)))
    for _ in range(TRIALS):
        if low >= capacity:
            break
        middle = (low + capacity) // 2
        found = _first_fit(each, middle)
        if len(found) <= len(rows):
            rows, capacity = found, middle
        else:
            low = middle + 1
    return rows


def _first_fit(each: Numbers, capacity: int) -> list[list[int]]:
    rows: list[list[int]] = []
    left: Numbers = np.empty(each.shape, dtype=np.int64)
    for index in np.argsort(-each.max(1), kind="stable").tolist():
        fits = (left[: len(rows)] >= each[index]).all(1)
        row = int(fits.argmax()) if fits.any() else len(rows)
        if row == len(rows):
            rows.append([])
            left[row] = capacity
        rows[row].append(index)
        left[row] -= each[index]
    return rows
