"""Tables: formatted on a terminal, plain columns in a pipe."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from etude.console import print_bold, rich_console
from etude.escaping import csv_cell, printable

_MIN_WIDTH = 6
"""Minimum characters of a truncated column, so that cells remain distinguishable."""


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table with wrapped cells on a terminal; in a pipe, as `print_columns`."""
    if not sys.stdout.isatty():
        print_columns(columns, rows)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(Text(printable(column, line=True)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell, line=True)) for cell in row))
    rich_console().print(table)


def print_columns(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints one line per row, with columns two spaces apart.

    On a terminal, columns are truncated to its width, labels first; in a pipe, they are not
    truncated.
    """
    cells = [[printable(cell, line=True) for cell in row] for row in (columns, *rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    terminal = sys.stdout.isatty()
    if terminal:
        soft = [column == "label" for column in columns]
        widths = _fit_widths(widths, soft, shutil.get_terminal_size().columns)
        cells = [
            [_truncate(cell, width) for cell, width in zip(row, widths, strict=True)]
            for row in cells
        ]
    lines = [
        "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]
    if terminal and "NO_COLOR" not in os.environ:
        print_bold(lines.pop(0))
    if lines:
        print("\n".join(lines))


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table.

    Args:
        columns: headings, in Markdown; `etude.escaping.markdown` escapes other texts.
        rows: cells, in Markdown.
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(_in_markdown, line)) + " |" for line in lines)


def _in_markdown(cell: str) -> str:
    return cell.replace("|", r"\|").replace("\n", " ")


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table as CSV, in which no text is a formula and None is empty."""
    import csv

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    writer.writerows(map(csv_cell, row) for row in rows)
    return file.getvalue()


def format_cell(key: str, value: Any) -> str:
    """Formats a table cell: metrics to five decimals, whole seconds, lists as JSON."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        if key == "seconds":
            return f"{value:.0f}"
        if isinstance(value, float) and ("/" in key or key == "best"):
            return f"{value:.5f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.4g}"
        return repr(value) if isinstance(value, int) else f"{value:.7g}"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def format_bytes(count: int) -> str:
    """Formats a number of bytes: `3.2 MB`."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _truncate(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while _width(text) > width - 1:
        text = text[:-1]
    return text + "…"


def _fit_widths(widths: list[int], soft: list[bool], available: int) -> list[int]:
    """Reduces the soft widths, then the widest, until the columns fit or none can be reduced."""
    widths = list(widths)
    for reducible in (soft, [True] * len(widths)):
        while sum(widths) + 2 * (len(widths) - 1) > available:
            wide = [i for i, w in enumerate(widths) if reducible[i] and w > _MIN_WIDTH]
            if not wide:
                break
            widths[max(wide, key=widths.__getitem__)] -= 1
    return widths
