"""Rows of cells between commas (CSV) or tabs (TSV).

CSV is RFC 4180: a cell may stand in quotation marks, and only such a cell may hold a comma, a line
end or a quotation mark, which is doubled. TSV is IANA's text/tab-separated-values: no cell holds a
tab or a line end, and a quotation mark is a character like any other. Many programs write TSV with
the quotation marks of CSV all the same; `quoted` decides which of both a file is.

Lines without any character are skipped, and every kind of line end is read as a newline, also
within a cell.
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
from etude.data.plain import LONGEST, ReadOnce, lines_of, too_long
from etude.errors import Problem, RequestError

Quoting = Literal["csv", "none"]
"""How quotation marks around a cell are read: as CSV has it, or as characters like any other."""

SEPARATORS = {".csv": ",", ".tsv": "\t"}
QUOTE = '"'

log = logging.getLogger("etude.data")
_once = ReadOnce()


def header(file: Path, form: Format, quoting: Quoting | None = None) -> list[str]:
    """The names of the columns, which the first line states; none if the file has no line.

    pandas writes the numbers of the rows as a first column without a name; its name is empty here.

    Raises:
        RequestError: a name stands twice, or a column other than the first has none.
    """
    for number, names in _records(file, form, quoting):
        return _checked(names, f"{file}, line {number}", form)
    return []


def rows(
    file: Path, form: Format, quoting: Quoting | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """All rows after the header: the line in which each begins, and its cells by column.

    Raises:
        RequestError: a row has more or fewer cells than the header, or quotation marks that CSV
            does not allow; says in which line.
    """
    names: list[str] | None = None
    for number, cells in _records(file, form, quoting):
        if names is None:
            names = _checked(cells, f"{file}, line {number}", form)
        else:
            yield number, dict(zip(names, cells, strict=True))


def quoted(file: Path, form: Format, quoting: Quoting | None = None) -> bool:
    """Whether quotation marks around a cell are read as in CSV.

    They are in CSV. In TSV it matters only where a cell begins with one. Then the file is read in
    both ways, and the one that gives each row as many cells as the header is right.

    Args:
        quoting: what the config states; None decides.

    Raises:
        RequestError: both readings are possible, and differ.
    """
    if quoting is not None:
        return quoting == "csv"
    if form.suffix == ".csv":
        return True
    found: bool = _once(_decided, file, SEPARATORS[form.suffix])
    return found


def _decided(file: Path, separator: str) -> bool:
    plain: tuple[int, list[str]] | None = None  # the first line with a cell that begins with a mark
    width, fits = 0, True
    for number, cells in _plain(file, separator):
        width = width or len(cells)
        fits = fits and len(cells) == width
        if plain is None and any(cell.startswith(QUOTE) for cell in cells):
            plain = number, cells
        if plain is not None and not fits:
            break
    if plain is None:
        return False
    line, written = plain
    other: list[str] = []
    try:
        for number, cells in _even(_quoted(file, separator), file, separator):
            if number <= line:
                other = cells
    except RequestError:
        return False
    if not fits:
        log.info("%s: quotation marks around a cell are read as in CSV (line %s)", file, line)
        return True
    place = next((n for n, cell in enumerate(written) if cell.startswith(QUOTE)), 0)
    both = [cells[place] if place < len(cells) else "" for cells in (other, written)]
    csv_reads, none_reads = (repr(cell if len(cell) < 40 else f"{cell[:37]}...") for cell in both)
    expected = "data.quoting to be stated: a cell begins with a quotation mark"
    hint = f"data.quoting=csv reads {csv_reads}, data.quoting=none {none_reads}; "
    hint += "evaluate and predict take --quoting"
    raise RequestError(Problem(f"{file}, line {line}", expected, hint=hint))


def _records(file: Path, form: Format, quoting: Quoting | None) -> Iterator[tuple[int, list[str]]]:
    separator = SEPARATORS[form.suffix]
    read = _quoted if quoted(file, form, quoting) else _plain
    return _even(read(file, separator), file, separator)


def _even(
    records: Iterator[tuple[int, list[str]]], file: Path, separator: str
) -> Iterator[tuple[int, list[str]]]:
    """The records, each with as many cells as the first."""
    width = None
    for number, cells in records:
        if width is None:
            width = len(cells)
        elif len(cells) != width:
            name = {",": "a comma", "\t": "a tab"}[separator]
            expected = f"as many cells as the header names, {width}"
            hint = f"a cell with {name} in it stands in quotes" if separator == "," else None
            raise RequestError(Problem(f"{file}, line {number}", expected, len(cells), hint))
        yield number, cells


def _plain(file: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines_of(file), 1):
        if line != "\n":
            yield number, line.removesuffix("\n").split(separator)


def _quoted(file: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    record: list[str] = []  # the lines of the record that is being read
    csv.field_size_limit(sys.maxsize)  # `LONGEST` is the limit

    def lines() -> Iterator[str]:
        size = 0
        for line in lines_of(file):
            size = len(line) + (size if record else 0)
            if size > LONGEST:
                raise RequestError(too_long(f"{file}, line {first}"))
            record.append(line)
            yield line

    cell = rf'(?:"[^"]*+(?:""[^"]*+)*+"|[^"\n{separator}]*+)'
    right = re.compile(rf"{cell}(?:{separator}{cell})*+\n?")
    first = 1  # the line in which the record begins
    parsed = csv.reader(lines(), delimiter=separator, strict=True)
    while True:
        try:
            cells = next(parsed, None)
        except csv.Error as error:
            open_mark = "unexpected end" in str(error)
            expected = "a quotation mark that ends the cell" if open_mark else "a row of CSV"
            raise RequestError(
                Problem(f"{file}, line {first}", expected, hint=str(error))
            ) from error
        if cells is None:
            return
        text = "".join(record) if len(record) > 1 else record[0]
        if QUOTE in text and not right.fullmatch(text):
            expected = "quotation marks around the whole cell alone"
            hint = 'a cell with a quotation mark in it is written "like ""this"""'
            raise RequestError(Problem(f"{file}, line {first}", expected, hint=hint))
        if cells:
            yield first, cells
        first += len(record)
        record.clear()


def _checked(names: list[str], where: str, form: Format) -> list[str]:
    problems = [
        Problem(where, "names of columns that all differ", name)
        for name in dict.fromkeys(name for name in names if names.count(name) > 1)
    ]
    problems += [
        Problem(where, f"a name for column {number}", name)
        for number, name in enumerate(names, 1)
        if not name.strip() and number > 1 and names.count(name) == 1
    ]
    problems += [
        Problem(where, "text", name, "a file in UTF-16 is converted by iconv -f utf-16 -t utf-8")
        for name in names
        if "\0" in name
    ]
    others = [mark for mark in (",", ";", "\t") if mark != SEPARATORS[form.suffix]]
    if len(names) == 1 and any(mark in names[0] for mark in others):
        named = {",": "commas", "\t": "tabs"}[SEPARATORS[form.suffix]]
        hint = "in .csv cells stand between commas, in .tsv between tabs"
        problems.append(Problem(where, f"names between {named}", names[0], hint))
    if problems:
        raise RequestError(problems)
    return names
