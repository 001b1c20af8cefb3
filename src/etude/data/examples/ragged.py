"""Many lists of numbers, of different lengths, in two files: the numbers, and where each list
ends. They are mapped into memory, so a table may be larger than it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
_TYPES = {False: "<i4", True: "<f4"}


class Ragged:
    """Lists that `RaggedWriter` wrote; it may be pickled, each process maps the files for itself.

    Args:
        path: without the suffixes.
        floats: whether they are floating-point numbers instead of whole ones.
    """

    def __init__(self, path: Path, *, floats: bool = False) -> None:
        self.path, self.floats = path, floats

    @cached_property
    def ends(self) -> Numbers:
        """Where each list ends, shape (lists,)."""
        return _mapped(_beside(self.path, ".ends"), "<i8")

    @cached_property
    def values(self) -> NDArray[Any]:
        """All numbers, one list after the other."""
        return _mapped(_beside(self.path, ".values"), _TYPES[self.floats])

    @cached_property
    def lengths(self) -> Numbers:
        """Of each list, shape (lists,)."""
        return np.diff(self.ends, prepend=0)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> NDArray[Any]:
        """A list: int64, or float32."""
        start = self.ends[index - 1] if index else 0
        return self.values[start : self.ends[index]].astype(np.float32 if self.floats else np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "floats": self.floats}


class RaggedWriter:
    """Writes lists one after the other.

    Args:
        path, floats: as for `Ragged`.
    """

    def __init__(self, path: Path, *, floats: bool = False) -> None:
        self._floats = floats
        self._values = _beside(path, ".values").open("wb")
        self._ends = _beside(path, ".ends").open("wb")
        self._end = 0
        self._digest = hashlib.sha256()

    def extend(self, lists: Sequence[Sequence[float]]) -> Numbers:
        """Adds lists of 32-bit numbers, and returns their lengths."""
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        native = np.single if self._floats else np.intc
        kind = _TYPES[self._floats]
        numbers = chain.from_iterable(lists)
        values = np.fromiter(numbers, native, int(lengths.sum())).astype(kind)
        ends = (self._end + np.cumsum(lengths)).astype("<i8")
        self._values.write(values.tobytes())
        self._ends.write(ends.tobytes())
        # the digest is of each list's numbers and then its end, in two words
        words = np.empty(len(values) + 2 * len(lists), dtype="<u4")
        after = np.cumsum(lengths) + 2 * np.arange(len(lists))
        places = np.arange(len(values)) + 2 * np.repeat(np.arange(len(lists)), lengths)
        words[places] = values.view("<u4")
        words[after], words[after + 1] = ends.view("<u4").reshape(-1, 2).T
        self._digest.update(words.tobytes())
        self._end += len(values)
        return lengths

    def close(self) -> str:
        """Ends writing; the sha256 (hex) of all that was written."""
        self._values.close()
        self._ends.close()
        return self._digest.hexdigest()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _mapped(file: Path, dtype: str) -> NDArray[Any]:
    count = file.stat().st_size // np.dtype(dtype).itemsize
    if count == 0:  # an empty file can't be mapped
        return np.empty(0, dtype=dtype)
    return np.asarray(np.memmap(file, dtype=dtype, mode="r", shape=(count,)))
