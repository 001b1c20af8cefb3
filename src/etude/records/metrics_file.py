"""`metrics.jsonl`: one JSON object per logged optimizer step, in the order of steps."""

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

from etude.records.files import fsync_folder, naming_errors, write_parts
from etude.records.opening import METRICS, open_file, open_for_append
from etude.records.storage import try_fsync

if TYPE_CHECKING:
    import pandas as pd

_TAIL = 65536
"""Number of bytes at the end of the file in which the latest values of the metrics are searched; a
regularly logged metric has a value there.
"""
_LINE = 2**20
"""Maximum bytes of a row; a row of ten metrics has about 300 bytes."""


class MetricsFile:
    """Writer of a run's `metrics.jsonl`.

    An appended row survives the end of this process and, once `sync` has returned, a power failure.
    Values that JSON cannot represent (NaN, infinities) are written as null.

    Args:
        path: path of the file; the first appended row creates it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._synced = False  # whether the file's name is on disk
        self._bytes = 0  # number of the file's bytes in `_hash`
        self._hash = hashlib.sha256()

    def append(self, row: Mapping[str, Any]) -> None:
        """Appends one row: a dictionary with the step and with metric names and values."""
        clean = {key: _null_if_not_finite(value) for key, value in row.items()}
        with naming_errors(self.path), open_for_append(self.path, METRICS) as file:
            file.write(_line(clean))

    def sync(self) -> dict[str, Any]:
        """Flushes all rows and the file's name to disk.

        Returns:
            A dictionary with the file's length, `bytes`, and the `sha256` of its content. Each call
            reads only the bytes that were appended after the previous call. If the file is
            missing, the length is 0.
        """
        with naming_errors(self.path):
            try:
                file = open_file(self.path, METRICS)
            except FileNotFoundError:  # no rows yet
                return {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}
            with file:
                try_fsync(file.fileno())
                file.seek(self._bytes)
                while block := file.read(_LINE):
                    self._hash.update(block)
                    self._bytes += len(block)
            if not self._synced:
                fsync_folder(self.path.parent)
                self._synced = True
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}

    def starts_with(self, synced: Mapping[str, Any]) -> bool:
        """Returns whether the beginning of the file is unchanged since an earlier call of `sync`.

        `synced` is the dictionary that the earlier call returned: the length and the hash of the
        content at that time.
        """
        size, digest, count = synced.get("bytes"), hashlib.sha256(), 0
        if not isinstance(size, int):
            return False
        try:
            with open_file(self.path, METRICS) as file:
                for block in _first_bytes(file, size):
                    digest.update(block)
                    count += len(block)
        except FileNotFoundError:
            pass
        return count == size and digest.hexdigest() == synced.get("sha256")

    def truncate_after(self, step: int) -> None:
        """Removes the rows after `step`, which a continued run writes again.

        Everything from the first line that is not JSON is removed, too. The rows before stay
        unchanged, byte for byte; a missing newline at their end is added. Does nothing if the file
        is missing.
        """
        try:
            with open_file(self.path, METRICS) as file:
                size, end = 0, b""
                for line, row in _lines_and_rows(file):
                    if _step(row) > step:
                        break
                    size += len(line)
                    end = b"" if line.endswith(b"\n") else b"\n"  # a killed process left no newline
                if end or size < os.fstat(file.fileno()).st_size:
                    file.seek(0)
                    write_parts(self.path, chain(_first_bytes(file, size), [end]), METRICS)
        except FileNotFoundError:
            return
        self._bytes, self._hash = 0, hashlib.sha256()


def iter_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a `metrics.jsonl`, up to the first line that is not JSON.

    A killed process can leave a partial line. If the file is missing, there are no rows.

    Raises:
        RequestError: `open_file` rejects the file.
    """
    try:
        with open_file(path, METRICS) as file:
            yield from _rows(file)
    except FileNotFoundError:
        return


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a `metrics.jsonl` as a list, as `iter_rows` yields them.

    Millions of rows need much memory.
    """
    return list(iter_rows(path))


def read_frame(path: Path) -> pd.DataFrame:
    """Returns the rows of a `metrics.jsonl` as a data frame with one column per key.

    This is about three times as fast as `read_rows`. If a row lacks a key, its value is NaN. If the
    file is missing, the data frame is empty.

    Files that contain only numbers are read with Arrow. Files with other content (strings, lists, a
    damaged line), which Arrow may parse differently from Python's `json`, are read with `json`.

    Raises:
        RequestError: `open_file` rejects the file.
    """
    import pandas as pd

    try:
        with open_file(path, METRICS) as file:
            table = _arrow_table(file)
            if table is not None:
                return table.to_pandas()
            file.seek(0)
            return pd.DataFrame(list(_rows(file)))
    except FileNotFoundError:
        return pd.DataFrame()


def read_latest(path: Path) -> dict[str, Any]:
    """Returns a dictionary from each key of a `metrics.jsonl` to its latest value.

    Only the last 64 KiB of the file are read.

    Raises:
        RequestError: `open_file` rejects the file.
    """
    values: dict[str, Any] = {}
    try:
        with open_file(path, METRICS) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            if size > _TAIL:
                file.readline(_TAIL)
            for row in _rows(file):
                values |= row
    except FileNotFoundError:
        pass
    return values


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _rows(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    return (row for _, row in _lines_and_rows(file))


def _lines_and_rows(file: IO[bytes]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yields each line of a `metrics.jsonl` together with its row (the parsed dictionary).

    Stops at the first line that is not JSON.
    """
    for line in iter_lines(file):
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError):
            return
        if isinstance(row, dict):
            yield line, row


def _step(row: Mapping[str, Any]) -> float:
    """Returns the step of a row; infinity if it is not an integer, for example in a damaged row."""
    step = row.get("step", 0)
    return step if isinstance(step, int) else math.inf


def _first_bytes(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yields the next `size` bytes of a file, in blocks; fewer bytes if the file ends before."""
    while size > 0 and (block := file.read(min(size, _LINE))):
        yield block
        size -= len(block)


def iter_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yields the lines of a file, including their newline characters.

    A line of more than 1 MiB is split into several items.
    """
    return iter(partial(file.readline, _LINE), b"")


def _arrow_table(file: IO[bytes]) -> Any:
    """Returns the rows of a `metrics.jsonl` as an Arrow table of integers and floats.

    Returns None if there are values of other types, if a name is not UTF-8, or if the last line is
    incomplete.
    """
    from importlib import import_module

    pa: Any = import_module("pyarrow")  # pyarrow has no type stubs
    reader: Any = import_module("pyarrow.json")

    count, end = 0, b""
    for block in iter(partial(file.read, _LINE), b""):
        count, end = count + block.count(b"\n"), block[-1:]
    if end != b"\n":
        return None
    file.seek(0)
    try:
        table = reader.read_json(pa.PythonFile(file, "r"))
        kinds = dict(zip(table.schema.names, table.schema.types, strict=True))
    except (pa.ArrowException, UnicodeDecodeError):  # Arrow does not check that names are UTF-8
        return None
    numeric = all(pa.types.is_int64(kind) or pa.types.is_float64(kind) for kind in kinds.values())
    if not numeric or table.num_rows != count:
        return None
    # an integer beyond 64 bits would have become a float
    floats = [column for column in table.columns if pa.types.is_float64(column.type)]
    large = any(abs(value) >= 2.0**63 for column in floats for value in _ends(column))
    return None if large else table


def _ends(column: Any) -> list[float]:
    from importlib import import_module

    ends = import_module("pyarrow.compute").min_max(column).as_py()
    return [value for value in ends.values() if value is not None]


def _null_if_not_finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


HIGHER_IS_BETTER = (
    "accuracy", "f1", "precision", "recall", "mcc", "bleu", "chrf", "exact", "pearson", "spearman",
)  # fmt: skip
"""Prefixes or suffixes of metric names where higher is better."""
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "error")
"""Prefixes or suffixes of metric names where lower is better."""


def is_higher_better(
    metric: str, more: Collection[str] = (), less: Collection[str] = ()
) -> bool | None:
    """Returns whether higher values of a metric are better.

    Returns None if this is unknown, as for metrics that are neither Étude's own, such as
    `val/loss`, nor in `more` or `less`.

    Args:
        metric: name of the metric, with or without `val/`.
        more: names of additional metrics, without `val/`, whose higher values are better.
        less: names of additional metrics, without `val/`, whose lower values are better.
    """
    names = set(metric.split("/"))
    if names & set(more):
        return True
    if names & set(less):
        return False
    for affixes, result in ((HIGHER_IS_BETTER, True), (LOWER_IS_BETTER, False)):
        ends = tuple(f"_{name}" for name in affixes)
        if any(name.startswith(affixes) or name.endswith(ends) for name in names):
            return result
    return None
