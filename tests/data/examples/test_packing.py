"""Which short examples share a sequence."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from etude.data.examples.packing import pack_examples

SIZES = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=60)


@given(SIZES, st.integers(30, 80))
def test_each_example_stands_once_where_there_is_room(
    sizes: list[tuple[int, int]], capacity: int
) -> None:
    rows = pack_examples(sizes, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(sizes)))
    for row in rows:
        assert np.array([sizes[index] for index in row]).sum(0).max() <= capacity
    assert rows == pack_examples(sizes, capacity)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_few_sequences(lengths: list[int]) -> None:
    """By first fit all sequences but one are more than half full before they are evened out."""
    rows = pack_examples([[length] for length in lengths], 30)
    assert (len(rows) - 1) * 15 < sum(lengths)


def test_the_last_is_not_nearly_empty() -> None:
    rows = pack_examples([[length] for length in [4] * 16], 60)  # 15 would fill the first
    assert [len(row) for row in rows] == [8, 8]


def test_by_hand() -> None:
    assert pack_examples([[3], [7], [5], [2], [4], [12]], 10) == [[5], [1, 0], [2, 4], [3]]
