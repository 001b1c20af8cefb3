"""Tables: formatted on a terminal, plain columns in a pipe."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from etude.console import BOLD, GREEN, RED, YELLOW, has_colours, print_styled, rich_console
from etude.escaping import csv_cell, printable
from etude.records.status import Status
from etude.records.times import TIME_KEYS, format_duration, format_time

_MIN_WIDTH = 6
"""Minimum characters of a truncated column, so that cells remain distinguishable."""
_SHORT_WIDTH = 11
"""Number of characters of a short time such as `01-31 14:05`, and the minimum number of characters
of a run, with 8 digits of its signature.
"""
_REDUCTIONS: list[tuple[Callable[[str], bool], int]] = [
    (lambda column: column == "label", _MIN_WIDTH),
    (lambda column: column not in ("run", "status"), _SHORT_WIDTH),
    (lambda column: column == "run", _SHORT_WIDTH + 1),
    (lambda column: column in TIME_KEYS, _MIN_WIDTH),
    (lambda column: True, _MIN_WIDTH),
]
"""Columns to truncate on a narrow terminal, in this order, with their minimum widths in characters;
a function selects the columns by name.
"""


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; on a terminal, long cells are wrapped.

    Otherwise, for example in a pipe, the table is printed as by `print_columns`.
    """
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
    """Prints a table with one line per row and two spaces between columns.

    On a terminal, statuses are coloured, and columns are truncated to fit its width; the column
    `label` is truncated first. In a pipe, the cells are complete and without colours.
    """
    cells = [[printable(cell, line=True) for cell in row] for row in (columns, *rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    if sys.stdout.isatty():
        widths = _fit_widths(widths, columns, shutil.get_terminal_size().columns)
        cells = [
            [_truncate(*each) for each in zip(row, widths, columns, strict=True)] for row in cells
        ]
    lines = [_pad(row, widths) for row in cells]
    if not has_colours():
        print("\n".join("".join(line).rstrip() for line in lines))
        return
    for line, values in zip(lines, (None, *rows), strict=True):
        styles = [
            BOLD if values is None else _colour(column, values[i])
            for i, column in enumerate(columns)
        ]
        print_styled(*zip(line, styles, strict=True))


def _pad(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Returns the cells of a row, padded with spaces to the widths of their columns plus two.

    The last cell is not padded. `widths` are the widths of the columns in characters.
    """
    padded = [
        cell + " " * (width + 2 - _width(cell)) for cell, width in zip(row, widths, strict=True)
    ]
    return [*padded[:-1], padded[-1].rstrip()]


def _colour(column: str, value: str) -> int | None:
    """Returns the ANSI code of the colour of a table cell; None for a cell without a colour.

    Only statuses have a colour: failures are red, trained runs green, and running ones yellow.
    `column` is the name of the cell's column, and `value` is the cell's text.
    """
    if column != "status" or value not in tuple(Status):
        return None
    status = Status(value)
    if status.is_failure:
        return RED
    return GREEN if status.is_trained else YELLOW if status is Status.RUNNING else None


def metric_grid(metrics: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Returns lines of text with the names and values of metrics, in as many columns as fit.

    Args:
        metrics: pairs of a metric's name and its formatted value; columns are filled from top to
            bottom.
        width: maximum number of characters of a line.
    """
    if not metrics:
        return []
    metrics = [(printable(name, line=True), value) for name, value in metrics]
    name_width = max(_width(name) for name, _ in metrics)
    value_width = max(len(value) for _, value in metrics)
    cells = [
        name + " " * (name_width - _width(name)) + f"  {value:>{value_width}}"
        for name, value in metrics
    ]
    gap = 4
    fitting = max(1, (width + gap) // (name_width + 2 + value_width + gap))
    lines = math.ceil(len(cells) / fitting)
    return [(" " * gap).join(cells[line::lines]) for line in range(lines)]


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
    """Returns a table as CSV; None is an empty cell.

    Texts that a spreadsheet would evaluate as formulas are escaped.
    """
    import csv

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    writer.writerows(map(csv_cell, row) for row in rows)
    return file.getvalue()


def format_cell(key: str, value: Any) -> str:
    """Formats the value of a key as a table cell.

    Metrics, which are floats whose key contains `/` or is `best`, have five decimals, and `seconds`
    has none. Times are shown as local times, durations as by `format_duration`, and lists as JSON.
    None is an empty cell.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        if key == "duration":
            return format_duration(value)
        if key == "seconds":
            return f"{value:.0f}"
        if isinstance(value, float) and ("/" in key or key == "best"):
            return format_metric(value, decimals=5)
        return repr(value) if isinstance(value, int) else f"{value:.7g}"
    if isinstance(value, str):
        return format_time(value) if key in TIME_KEYS else value
    return json.dumps(value, ensure_ascii=False)


def format_metric(value: float, decimals: int = 4, sign: bool = False) -> str:
    """Formats a metric, or a difference of metrics.

    A number below 0.001 or from a million is formatted to four digits, so that a small difference
    is not shown as zero.

    Args:
        value: the metric.
        decimals: number of decimals of other numbers.
        sign: whether to show the sign of a positive number.
    """
    plus = "+" if sign else ""
    is_usual = value == 0 or 1e-3 <= abs(value) < 1e6
    return f"{value:{plus}.{decimals}f}" if is_usual else f"{value:{plus}.4g}"


def format_best(best: Mapping[str, Any]) -> str:
    """Formats the best validation of a run, such as `best at step 16 (val/f1 0.9100)`.

    `best` is the dictionary that `best_validation` returns; it must not be empty.
    """
    return f"best at step {best['step']} ({best['metric']} {format_metric(best['value'])})"


def format_bytes(count: int) -> str:
    """Formats a number of bytes with a unit, such as `3.2 MB`."""
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


def _truncate(text: str, width: int, column: str = "") -> str:
    """Returns a text, shortened to at most `width` characters.

    The last character of a shortened text is `…`. In the column `run`, whose texts are
    `<name>/<signature>`, name and signature are shortened separately, so that at least 8 digits of
    the signature remain.
    """
    if _width(text) <= width:
        return text
    name, slash, signature = text.rpartition("/")
    if column == "run" and slash and width >= _SHORT_WIDTH:
        name = _truncate(name, width - 9)
        return f"{name}/{signature[: width - 1 - _width(name)]}"
    while _width(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


def _fit_widths(widths: list[int], columns: Sequence[str], available: int) -> list[int]:
    """Returns the widths of columns, reduced so that a line fits the available width.

    `_REDUCTIONS` lists which columns are reduced first, and their minimum widths.

    The result may still be too wide if all columns have their minimum widths.

    Args:
        widths: widths of the columns in characters.
        columns: names of the columns.
        available: maximum number of characters of a line.
    """
    widths = list(widths)
    for is_reducible, least in _REDUCTIONS:
        while sum(widths) + 2 * (len(widths) - 1) > available:
            wide = [i for i, w in enumerate(widths) if is_reducible(columns[i]) and w > least]
            if not wide:
                break
            widths[max(wide, key=widths.__getitem__)] -= 1
    return widths
