"""Texts in files, for a run that is to say something of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etude.data.delimited import Quoting
from etude.data.examples.source import Text
from etude.data.formats import format_of
from etude.data.plain import lines_of
from etude.data.rows import check_surrogates, columns_of, newlines, records_of
from etude.errors import Problem, RequestError


def texts_in(file: Path, data: Any, quoting: Quoting | None = None) -> Iterator[Text]:
    """The texts of a file: its lines, or a column of its rows, with the second text of each if the
    data has one and the rows do; or what the data itself reads of it, as words of CoNLL.

    Args:
        data: an `etude.data.examples.base.ExampleData`.
        quoting: of CSV and TSV; None is as the data's.

    Raises:
        RequestError: it can't be read, or has no such column.
    """
    form = format_of(file, without_suffix=True)
    if not file.is_file():
        raise RequestError(Problem("--file", "a file", str(file)))
    if (own := data.texts_in(file)) is not None:
        yield from own
        return
    if form is None or not form.rows:
        for number, line in enumerate(lines_of(file), 1):
            if not line.strip():
                raise RequestError(Problem(f"{file}, line {number}", "some text; it is empty"))
            yield line.removesuffix("\n")
        return
    column, quoting = data.text_column, quoting or data.stated_quoting()
    found = columns_of(file, form, quoting)
    if column not in found:
        hint = f"{file} has {', '.join(found)}" if found else f"{file} is empty"
        raise RequestError(Problem("--file", f"the column {column}", hint=hint))
    second = data.second_column if data.second_column in found else None
    columns = [column] if second is None else [column, second]
    for where, row in records_of(file, form, columns, quoting):
        value = row[column]
        listed = data.reads_words and _is_word_list(value)
        if not isinstance(value, str) and not listed:
            expected = "text or a list of words" if data.reads_words else "text"
            raise RequestError(Problem(where, expected, value))
        if not "".join(value).strip():
            raise RequestError(Problem(where, "some text; it is empty"))
        check_surrogates(where, "".join(value))
        if second is None:
            yield value if listed else newlines(value)
        else:
            other = row[second]
            if not isinstance(other, str) or not other.strip():
                raise RequestError(Problem(f"{where}, column {second}", "some text", other))
            check_surrogates(where, other)
            yield newlines(value), newlines(other)


def _is_word_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)
