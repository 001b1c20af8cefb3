"""Reader of CSV and TSV files: rows of cells that are separated by commas or tabs.

CSV follows RFC 4180: a cell may be enclosed in quotation marks, and only such a cell may contain a
comma, a line end or a (doubled) quotation mark. TSV follows IANA's
text/tab-separated-values: no cell contains a tab or a line end, and a quotation mark is a regular
character. Many programs write TSV with the quotation marks of CSV; `uses_csv_quoting` detects such
files.

Empty lines are skipped, and every kind of line end is read as a newline, also within a cell.
"""

from __future__ import annotations

import csv
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from etude.data.formats import Format
from etude.data.text_io import LONGEST, ReadOnce, lines_of, too_long_problem
from etude.errors import Problem, RequestError

Quoting = Literal["csv", "none"]
"""How quotation marks around a cell are read: as in CSV, or as regular characters."""

SEPARATORS = {".csv": ",", ".tsv": "\t"}
QUOTE = '"'

log = logging.getLogger("etude.data")
_once = ReadOnce()


def header(file: Path, form: Format, quoting: Quoting | None = None) -> list[str]:
    """Returns the column names from the first non-empty line; [] if there is no such line.

    The name of the first column may be empty, since pandas writes row numbers in such a column.

    Args:
        file: the file.
        form: format of the file.
        quoting: `csv` if quotation marks can enclose a cell, `none` if they are regular characters.
            If None, this is detected.

    Raises:
        RequestError: if a name is repeated, or a column other than the first has no name.
    """
    for number, names in _records(file, form, quoting):
        return _check_names(names, f"{file}, line {number}", form)
    return []


def rows(
    file: Path, form: Format, quoting: Quoting | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields each row after the header as a pair: line number, dict from column names to cells.

    Lines are counted from 1. The number is that of the row's first line, as a CSV row can have
    several lines.

    Args:
        file: the file.
        form: format of the file.
        quoting: `csv` if quotation marks can enclose a cell, `none` if they are regular characters.
            If None, this is detected.

    Raises:
        RequestError: if a row has more or fewer cells than the header, or invalid quotation marks;
            the message contains the line number.
    """
    names: list[str] | None = None
    for number, cells in _records(file, form, quoting):
        if names is None:
            names = _check_names(cells, f"{file}, line {number}", form)
        else:
            yield number, dict(zip(names, cells, strict=True))


def uses_csv_quoting(file: Path, form: Format, quoting: Quoting | None = None) -> bool:
    """Returns whether quotation marks around a cell are read as in CSV.

    If `quoting` is set, the result is whether it is `csv`. Otherwise the result is true for CSV,
    and false for TSV in which no cell begins with a quotation mark. Other TSV is parsed both ways.
    A parse is valid if all rows have as many cells as the header. The result is true if only the
    parse as in CSV is valid, and false if this parse is invalid.

    Args:
        file: the file.
        form: format of the file.
        quoting: `csv` if quotation marks can enclose a cell, `none` if they are regular characters.
            If None, this is detected.

    Raises:
        RequestError: if both parses of a TSV file are valid.
    """
    if quoting is not None:
        return quoting == "csv"
    if form.suffix == ".csv":
        return True
    result: bool = _once(_detect_quoting, file, SEPARATORS[form.suffix])
    return result


def _detect_quoting(file: Path, separator: str) -> bool:
    # The first line with a cell that begins with a quotation mark.
    first: tuple[int, list[str]] | None = None
    width, fits = 0, True
    for number, cells in _read_unquoted(file, separator):
        width = width or len(cells)
        fits = fits and len(cells) == width
        if first is None and any(cell.startswith(QUOTE) for cell in cells):
            first = number, cells
        if first is not None and not fits:
            break
    if first is None:
        return False
    line, unquoted_cells = first
    quoted_cells: list[str] = []
    try:
        for number, cells in _same_width(_read_quoted(file, separator), file, separator):
            if number <= line:
                quoted_cells = cells
    except RequestError:
        return False
    if not fits:
        log.info("%s, line %s: quotation marks around a cell are read as in CSV", file, line)
        return True
    column = next((n for n, cell in enumerate(unquoted_cells) if cell.startswith(QUOTE)), 0)
    samples = [
        cells[column] if column < len(cells) else "" for cells in (quoted_cells, unquoted_cells)
    ]
    csv_reads, none_reads = (
        repr(cell if len(cell) < 40 else f"{cell[:37]}...") for cell in samples
    )
    expected = "data.quoting set to csv or none, because a cell begins with a quotation mark"
    hint = f"with data.quoting=csv the cell is {csv_reads}, with data.quoting=none {none_reads}; "
    hint += "in etude evaluate and etude predict, set --quoting instead"
    raise RequestError(Problem(f"{file}, line {line}", expected, hint=hint))


def _records(file: Path, form: Format, quoting: Quoting | None) -> Iterator[tuple[int, list[str]]]:
    separator = SEPARATORS[form.suffix]
    read = _read_quoted if uses_csv_quoting(file, form, quoting) else _read_unquoted
    return _same_width(read(file, separator), file, separator)


def _same_width(
    records: Iterator[tuple[int, list[str]]], file: Path, separator: str
) -> Iterator[tuple[int, list[str]]]:
    """Yields all items of `records`, and checks that each row has as many cells as the first one.

    Args:
        records: pairs of a line number and the cells of a row.
        file: the file, for messages.
        separator: character between cells.

    Raises:
        RequestError: if a row has more or fewer cells than the first row.
    """
    width = None
    for number, cells in records:
        if width is None:
            width = len(cells)
        elif len(cells) != width:
            name = {",": "a comma", "\t": "a tab"}[separator]
            expected = f"{width} cells, as in the header, not {len(cells)}"
            hint = (
                f"put quotation marks around a cell that contains {name}"
                if separator == ","
                else None
            )
            raise RequestError(Problem(f"{file}, line {number}", expected, hint=hint))
        yield number, cells


def _read_unquoted(file: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines_of(file), 1):
        if line != "\n":
            yield number, line.removesuffix("\n").split(separator)


def _read_quoted(file: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    record: list[str] = []  # the lines of the current record
    csv.field_size_limit(sys.maxsize)  # `LONGEST` limits it below

    def lines() -> Iterator[str]:
        size = 0
        for line in lines_of(file):
            size = len(line) + (size if record else 0)
            if size > LONGEST:
                raise RequestError(too_long_problem(f"{file}, line {first}"))
            record.append(line)
            yield line

    cell = rf'(?:"[^"]*+(?:""[^"]*+)*+"|[^"\n{separator}]*+)'
    well_quoted = re.compile(rf"{cell}(?:{separator}{cell})*+\n?")
    first = 1  # the line in which the record begins
    parsed = csv.reader(lines(), delimiter=separator, strict=True)
    while True:
        try:
            cells = next(parsed, None)
        except csv.Error as error:
            open_mark = "unexpected end" in str(error)
            expected = "a closing quotation mark" if open_mark else "a valid CSV row"
            raise RequestError(
                Problem(f"{file}, line {first}", expected, hint=str(error))
            ) from error
        if cells is None:
            return
        text = "".join(record) if len(record) > 1 else record[0]
        if QUOTE in text and not well_quoted.fullmatch(text):
            expected = "quotation marks only at the start and the end of a cell"
            hint = 'double the quotation marks inside a cell: "like ""this"""'
            raise RequestError(Problem(f"{file}, line {first}", expected, hint=hint))
        if cells:
            yield first, cells
        first += len(record)
        record.clear()


def _check_names(names: list[str], where: str, form: Format) -> list[str]:
    problems = [
        Problem(where, "a column name that occurs only once", name)
        for name in dict.fromkeys(name for name in names if names.count(name) > 1)
    ]
    problems += [
        Problem(where, f"a name for column {number}", name)
        for number, name in enumerate(names, 1)
        if not name.strip() and number > 1 and names.count(name) == 1
    ]
    problems += [
        Problem(
            where,
            "text without null characters",
            name,
            "if the file is UTF-16, convert it to UTF-8 with iconv -f utf-16 -t utf-8",
        )
        for name in names
        if "\0" in name
    ]
    others = [mark for mark in (",", ";", "\t") if mark != SEPARATORS[form.suffix]]
    if len(names) == 1 and any(mark in names[0] for mark in others):
        separator = {",": "commas", "\t": "tabs"}[SEPARATORS[form.suffix]]
        hint = "separate cells by commas in .csv files and by tabs in .tsv files"
        problems.append(Problem(where, f"column names separated by {separator}", names[0], hint))
    if problems:
        raise RequestError(problems)
    return names
