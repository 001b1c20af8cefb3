"""Lists of numbers in files: what is written is read; the digest is of each list and its end."""

from __future__ import annotations

import hashlib
import struct
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from etude.data.columns import FLOATS, INTEGERS, Column, ColumnWriter

WHOLE = st.integers(-(2**31), 2**31 - 1)
REAL = st.floats(width=32, allow_nan=False)


@pytest.mark.parametrize(("numbers", "code"), [(WHOLE, "i"), (REAL, "f")])
def test_what_is_written_is_read(numbers: st.SearchStrategy, code: str) -> None:
    @settings(deadline=None)
    @given(st.lists(st.lists(st.lists(numbers, max_size=4), max_size=4), max_size=3))
    def check(groups: list[list[list[float]]]) -> None:
        dtype = FLOATS if code == "f" else INTEGERS
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "numbers"
            writer = ColumnWriter(path, dtype)
            for group in groups:
                assert writer.extend(group).tolist() == [*map(len, group)]
            found = writer.close()
            column = Column(path, dtype)
            lists = [each for group in groups for each in group]
            assert len(column) == len(lists)
            for index, each in enumerate(lists):
                assert column[index].tolist() == each
                assert column[index].dtype == (np.float32 if dtype == FLOATS else np.int64)
        digest, end = hashlib.sha256(), 0
        for each in lists:
            end += len(each)
            digest.update(struct.pack(f"<{len(each)}{code}", *each) + struct.pack("<q", end))
        assert found == digest.hexdigest()

    check()
