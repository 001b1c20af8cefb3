"""`metrics.jsonl`: one JSON object a step that has something to say, in the order of steps."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from etude.records.files import naming, write_parts
from etude.records.opening import METRICS, appended, is_there, opened

if TYPE_CHECKING:
    import pandas as pd

_TAIL = 65536
"""Bytes at the file's end that hold the latest value of whatever is written regularly."""
_LINE = 2**20
"""Bytes of the longest line that is a row; a row of some ten metrics has about 300."""


class MetricsFile:
    """Appends rows; each is on its way to the disk when `append` returns.

    Values that JSON cannot hold (NaN, infinities) are written as null.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds one line."""
        clean = {key: _plain(value) for key, value in row.items()}
        with naming(self.path), appended(self.path, METRICS) as file:
            file.write(_line(clean))

    def cut_after(self, step: int) -> None:
        """Drops the rows past `step`, which a continued run writes again."""
        if is_there(self.path):
            kept = (row for row in rows(self.path) if row.get("step", 0) <= step)
            write_parts(self.path, map(_line, kept), METRICS)


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
    """Line by line up to the first that is no JSON."""
    for line in lines(file):
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError):
            break
        if isinstance(row, dict):
            yield row


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


RISING = ("accuracy", "f1", "precision", "recall", "mcc", "bleu", "chrf", "exact")
"""Metrics of which more is better, by how their names begin; of all others less is."""


def better(value: float, than: float, metric: str) -> bool:
    """Whether one value of a metric such as `val/loss` or `val/f1_macro` is better."""
    rises = metric.rpartition("/")[2].startswith(RISING)
    return value > than if rises else value < than
