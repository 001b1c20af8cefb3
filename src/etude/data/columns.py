"""Columns: lists of numbers of different lengths, stored in two files.

One file contains all numbers, the other the position after the last number of each list.
The files are memory-mapped, so a column may be larger than memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

INTEGERS, FLOATS = "<i4", "<f4"
"""NumPy types of the numbers in stored rows: int32 and float32, little-endian."""


class Column:
    """Reader of stored lists of numbers; its files are memory-mapped at the first access.

    `column[i]` is a copy of list i, an int64 or float32 array. A column may be pickled or forked:
    each process maps the files itself.

    Args:
        path: path of the two files, without their suffixes `.values` and `.ends`.
        dtype: NumPy type of the numbers, little-endian.
    """

    def __init__(self, path: Path, dtype: str = INTEGERS) -> None:
        self.path, self.dtype = path, dtype
        self._windows: dict[int, NDArray[Any]] = {}

    @cached_property
    def ends(self) -> Numbers:
        """Position in `values` after each list's last number; shape (number of lists,)."""
        return _mapped(column_file(self.path, ".ends"), "<i8")

    @cached_property
    def values(self) -> NDArray[Any]:
        """Numbers of all lists, one list after the other, read-only."""
        return _mapped(column_file(self.path, ".values"), self.dtype)

    @cached_property
    def lengths(self) -> Numbers:
        """Length of each list; shape (number of lists,)."""
        return np.diff(self.ends, prepend=0)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> NDArray[Any]:
        """Returns the list with this index: int64 for integers, float32 for floats."""
        start = self.ends[index - 1] if index else 0
        floats = np.dtype(self.dtype).kind == "f"
        return self.values[start : self.ends[index]].astype(np.float32 if floats else np.int64)

    def windows(self, width: int) -> NDArray[Any]:
        """Returns all windows of `width` consecutive numbers in `self.values`, as a view.

        `self.values` contains the numbers of all lists, one list after the other. Window i begins
        at position i; the shape is (number of windows, width).

        Raises:
            ValueError: if `self.values` contains fewer than `width` numbers.
        """
        if width not in self._windows:
            self._windows[width] = sliding_window_view(self.values, width)
        return self._windows[width]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "dtype": self.dtype, "_windows": {}}


class ColumnWriter:
    """Writer of a column, to which lists are appended.

    The two files are created, or emptied if they exist. They are complete after `close`.

    Args:
        path: path of the two files, without their suffixes `.values` and `.ends`.
        dtype: NumPy type of the numbers; a number must have four bytes.
    """

    def __init__(self, path: Path, dtype: str = INTEGERS) -> None:
        self.dtype = dtype
        self._values = column_file(path, ".values").open("wb")
        self._ends = column_file(path, ".ends").open("wb")
        self._end = 0
        self._digest = hashlib.sha256()

    def extend(self, lists: Sequence[Sequence[float]]) -> Numbers:
        """Appends lists of numbers to the column, and returns the length of each list.

        The lengths are an int64 array of shape (number of lists,).

        Raises:
            OverflowError: if a number is outside the range of `dtype`.
        """
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        numbers = chain.from_iterable(lists)
        values = np.fromiter(numbers, self.dtype[1:], int(lengths.sum())).astype(self.dtype)
        ends = (self._end + np.cumsum(lengths)).astype("<i8")
        self._values.write(values.tobytes())
        self._ends.write(ends.tobytes())
        # the digest covers each list's numbers and then its end, in two words
        words = np.empty(len(values) + 2 * len(lists), dtype="<u4")
        end_positions = np.cumsum(lengths) + 2 * np.arange(len(lists))
        positions = np.arange(len(values)) + 2 * np.repeat(np.arange(len(lists)), lengths)
        words[positions] = values.view("<u4")
        words[end_positions], words[end_positions + 1] = ends.view("<u4").reshape(-1, 2).T
        self._digest.update(words.tobytes())
        self._end += len(values)
        return lengths

    def close(self) -> str:
        """Closes the two files, and returns the sha256 (hex) of all numbers and list ends."""
        self._values.close()
        self._ends.close()
        return self._digest.hexdigest()


def column_file(path: Path, suffix: str) -> Path:
    """Returns the path of one of the two files of a column.

    Args:
        path: path of the column, without a suffix.
        suffix: `.values` for the file of the numbers, `.ends` for the file of the list ends.
    """
    return path.with_name(path.name + suffix)


def _mapped(file: Path, dtype: str) -> NDArray[Any]:
    count = file.stat().st_size // np.dtype(dtype).itemsize
    if count == 0:  # an empty file can't be mapped
        return np.empty(0, dtype=dtype)
    # A regular array: each operation on a `memmap` costs microseconds more.
    return np.asarray(np.memmap(file, dtype=dtype, mode="r", shape=(count,)))
