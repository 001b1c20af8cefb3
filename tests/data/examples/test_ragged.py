"""Lists of numbers in files: what is written is read, and the digest is of each list and its end."""

from __future__ import annotations

import hashlib
import struct
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from etude.data.examples.ragged import Ragged, RaggedWriter

INTEGERS = st.integers(-(2**31), 2**31 - 1)
FLOATS = st.floats(width=32, allow_nan=False)


@pytest.mark.parametrize(("numbers", "code"), [(INTEGERS, "i"), (FLOATS, "f")])
def test_what_is_written_is_read(numbers: st.SearchStrategy, code: str) -> None:
    @given(st.lists(st.lists(st.lists(numbers, max_size=4), max_size=4), max_size=3))
    def check(groups: list[list[list[float]]]) -> None:
        floats = code == "f"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "numbers"
            writer = RaggedWriter(path, floats=floats)
            for group in groups:
                assert writer.extend(group).tolist() == [*map(len, group)]
            found = writer.close()
            ragged = Ragged(path, floats=floats)
            lists = [each for group in groups for each in group]
            assert len(ragged) == len(lists)
            for index, each in enumerate(lists):
                assert ragged[index].tolist() == each
                assert ragged[index].dtype == (np.float32 if floats else np.int64)
        digest, end = hashlib.sha256(), 0
        for each in lists:
            end += len(each)
            digest.update(struct.pack(f"<{len(each)}{code}", *each) + struct.pack("<q", end))
        assert found == digest.hexdigest()

    check()
