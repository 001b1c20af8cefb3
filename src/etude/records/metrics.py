"""`metrics.jsonl`: one JSON object a step that has something to say, in the order of steps."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.records.files import naming, write_text

if TYPE_CHECKING:
    import pandas as pd

_TAIL = 65536
"""Bytes at the file's end that hold the latest value of whatever is written regularly."""


class MetricsFile:
    """Appends rows; each is on its way to the disk when `append` returns.

    Values that JSON cannot hold (NaN, infinities) are written as null.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds one line."""
        clean = {key: _plain(value) for key, value in row.items()}
        with naming(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(clean, allow_nan=False) + "\n")

    def cut_after(self, step: int) -> None:
        """Drops the rows past `step`, which a continued run writes again."""
        rows = [row for row in read_rows(self.path) if row.get("step", 0) <= step]
        if self.path.exists():
            write_text(self.path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All whole rows; a last line that a kill cut short is passed over."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return _rows(content)


def read_frame(path: Path) -> pd.DataFrame:
    """`read_rows` as a table, one column a key: the same values, some three times faster.

    Arrow reads plain columns of numbers; whatever it may understand otherwise than Python's `json`
    (texts, lists, a damaged line) is left to the latter.
    """
    import pandas as pd

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return pd.DataFrame()
    whole = content[: content.rfind(b"\n") + 1]
    table = _arrow_table(whole) if len(whole) == len(content) else None
    return pd.DataFrame(_rows(content)) if table is None else table.to_pandas()


def latest(path: Path) -> dict[str, Any]:
    """The latest value of each key, read from the end of the file alone."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            content = file.read()
    except OSError:
        return {}
    if size > _TAIL:
        content = content.partition(b"\n")[2]
    found: dict[str, Any] = {}
    for row in _rows(content):
        found |= row
    return found


def _rows(content: bytes) -> list[dict[str, Any]]:
    """Line by line up to the first that is no JSON."""
    rows = []
    for line in content.split(b"\n"):
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError):
            break
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _arrow_table(content: bytes) -> Any:
    """The lines as an Arrow table of integers and floats; None where they hold anything else."""
    from importlib import import_module

    pa: Any = import_module("pyarrow")  # it has no types
    reader: Any = import_module("pyarrow.json")

    try:
        table = reader.read_json(pa.BufferReader(content))
    except pa.ArrowException:
        return None
    plain = all(pa.types.is_int64(kind) or pa.types.is_float64(kind) for kind in table.schema.types)
    if not plain or table.num_rows != content.count(b"\n"):
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
