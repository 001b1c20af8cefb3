"""`metrics.jsonl`: one JSON object a step that has something to say, in the order of steps."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from etude.records.files import fsync_folder, naming, write_parts
from etude.records.opening import METRICS, appended, opened
from etude.records.storage import sync

if TYPE_CHECKING:
    import pandas as pd

_TAIL = 65536
"""Bytes at the file's end that hold the latest value of whatever is written regularly."""
_LINE = 2**20
"""Bytes of the longest line that is a row; a row of some ten metrics has about 300."""


class MetricsFile:
    """Appends rows.

    A row that was appended survives the end of this process, and, once `sync` has returned, a power
    cut. Values that JSON cannot hold (NaN, infinities) are written as null.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._synced = False  # the file's name is on the disk
        self._bytes = 0  # how many of the file's bytes `_hash` covers
        self._hash = hashlib.sha256()

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds one line."""
        clean = {key: _plain(value) for key, value in row.items()}
        with naming(self.path), appended(self.path, METRICS) as file:
            file.write(_line(clean))

    def sync(self) -> dict[str, Any]:
        """Flushes all rows to the disk, and the file's name.

        Returns:
            How long the file is, `bytes`, and their `sha256`. Bytes that an earlier call has read
            are not read again.
        """
        with naming(self.path):
            try:
                file = opened(self.path, METRICS)
            except FileNotFoundError:  # there are no rows yet
                return {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}
            with file:
                sync(file.fileno())
                file.seek(self._bytes)
                while block := file.read(_LINE):
                    self._hash.update(block)
                    self._bytes += len(block)
            if not self._synced:
                fsync_folder(self.path.parent)
                self._synced = True
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}

    def begins_with(self, synced: Mapping[str, Any]) -> bool:
        """Whether the file begins with what a call of `sync` returned."""
        size, found, there = synced.get("bytes"), hashlib.sha256(), 0
        if not isinstance(size, int):
            return False
        try:
            with opened(self.path, METRICS) as file:
                for block in _first(file, size):
                    found.update(block)
                    there += len(block)
        except FileNotFoundError:
            pass
        return there == size and found.hexdigest() == synced.get("sha256")

    def cut_after(self, step: int) -> None:
        """Drops the rows past `step`, which a continued run writes again; the others stay as they
        are, byte for byte.
        """
        try:
            with opened(self.path, METRICS) as file:
                kept, end = 0, b""
                for line, row in _lines_and_rows(file):
                    if _step(row) > step:
                        break
                    kept += len(line)
                    end = b"" if line.endswith(b"\n") else b"\n"  # a kill took it away
                if end or kept < os.fstat(file.fileno()).st_size:
                    file.seek(0)
                    write_parts(self.path, chain(_first(file, kept), [end]), METRICS)
        except FileNotFoundError:
            return
        self._bytes, self._hash = 0, hashlib.sha256()


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows one after the other, up to the first line that is no JSON: a kill cuts one short.

    Raises:
        RequestError: it is none of the files that `opened` opens.
    """
    try:
        with opened(path, METRICS) as file:
            yield from _rows(file)
    except FileNotFoundError:
        return


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All `rows`, which some million of them make large."""
    return list(rows(path))


def read_frame(path: Path) -> pd.DataFrame:
    """`read_rows` as a table, one column a key: the same values, some three times faster.

    Arrow reads plain columns of numbers; whatever it may understand otherwise than Python's `json`
    (texts, lists, a damaged line) is left to the latter.

    Raises:
        RequestError: it is none of the files that `opened` opens.
    """
    import pandas as pd

    try:
        with opened(path, METRICS) as file:
            table = _arrow_table(file)
            if table is not None:
                return table.to_pandas()
            file.seek(0)
            return pd.DataFrame(list(_rows(file)))
    except FileNotFoundError:
        return pd.DataFrame()


def latest(path: Path) -> dict[str, Any]:
    """The latest value of each key, read from the end of the file alone.

    Raises:
        RequestError: it is none of the files that `opened` opens.
    """
    found: dict[str, Any] = {}
    try:
        with opened(path, METRICS) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            if size > _TAIL:
                file.readline(_TAIL)
            for row in _rows(file):
                found |= row
    except FileNotFoundError:
        pass
    return found


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _rows(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    return (row for _, row in _lines_and_rows(file))


def _lines_and_rows(file: IO[bytes]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line and the row that it holds, up to the first line that is no JSON."""
    for line in lines(file):
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError):
            return
        if isinstance(row, dict):
            yield line, row


def _step(row: Mapping[str, Any]) -> float:
    """A row's step; of something that is none, one that is after all others."""
    step = row.get("step", 0)
    return step if isinstance(step, int) else math.inf


def _first(file: IO[bytes], size: int) -> Iterator[bytes]:
    """So many bytes of a file, from where it stands, or as many as it has."""
    while size > 0 and (block := file.read(min(size, _LINE))):
        yield block
        size -= len(block)


def lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file with their ends; one that is too long to be a row is cut into pieces."""
    return iter(partial(file.readline, _LINE), b"")


def _arrow_table(file: IO[bytes]) -> Any:
    """The lines as an Arrow table of integers and floats; None where they hold anything else, or
    the last one has no end.
    """
    from importlib import import_module

    pa: Any = import_module("pyarrow")  # it has no types
    reader: Any = import_module("pyarrow.json")

    count, end = 0, b""
    for block in iter(partial(file.read, _LINE), b""):
        count, end = count + block.count(b"\n"), block[-1:]
    if end != b"\n":
        return None
    file.seek(0)
    try:
        table = reader.read_json(pa.PythonFile(file, "r"))
    except pa.ArrowException:
        return None
    plain = all(pa.types.is_int64(kind) or pa.types.is_float64(kind) for kind in table.schema.types)
    if not plain or table.num_rows != count:
        return None
    # an integer beyond 64 bits would have become a float
    floats = [column for column in table.columns if pa.types.is_float64(column.type)]
    large = any(abs(value) >= 2.0**63 for column in floats for value in _ends(column))
    return None if large else table


def _ends(column: Any) -> list[float]:
    from importlib import import_module

    ends = import_module("pyarrow.compute").min_max(column).as_py()
    return [value for value in ends.values() if value is not None]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


RISING = (
    "accuracy", "f1", "precision", "recall", "mcc", "bleu", "chrf", "exact", "pearson", "spearman",
)  # fmt: skip
"""How the names of metrics begin, or end, of which more is better."""
FALLING = ("loss", "perplexity", "bits_per_byte", "error")
"""How those do of which less is better."""


def rises(metric: str, more: Collection[str] = (), less: Collection[str] = ()) -> bool | None:
    """Whether more is better of a metric such as `val/loss` or `val/f1_macro`; None if nobody says.

    Args:
        more, less: names of metrics, without `val/`, of which more, or less, is better.
    """
    names = set(metric.split("/"))
    if names & set(more):
        return True
    if names & set(less):
        return False
    for known, answer in ((RISING, True), (FALLING, False)):
        ends = tuple(f"_{name}" for name in known)
        if any(name.startswith(known) or name.endswith(ends) for name in names):
            return answer
    return None
