"""`metrics.jsonl`: one JSON object a step that has something to say, in the order of steps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.records.files import write_text


class MetricsFile:
    """Appends rows; each is on its way to the disk when `append` returns.

    Values that JSON cannot hold (NaN, infinities) are written as null.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds one line."""
        clean = {key: _plain(value) for key, value in row.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(clean, allow_nan=False) + "\n")

    def cut_after(self, step: int) -> None:
        """Drops the rows past `step`, which a continued run writes again."""
        rows = [row for row in read_rows(self.path) if row.get("step", 0) <= step]
        if self.path.exists():
            write_text(self.path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All whole rows; a last line that a kill cut short is passed over."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
