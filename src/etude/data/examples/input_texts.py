"""Reading of texts in files, as inputs for predictions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etude.data.delimited import Quoting
from etude.data.examples.source import Text
from etude.data.formats import format_of
from etude.data.rows import check_surrogates, iterate_rows, newlines, read_columns
from etude.data.text_io import lines_of
from etude.errors import Problem, RequestError


def read_texts(file: Path, data: Any, quoting: Quoting | None = None) -> Iterator[Text]:
    """Yields the texts of a file: its lines, or the values of the text column of its rows.

    If `data` has text pairs and the rows have the column of the second text, pairs are yielded. For
    a file in a format that only the class of `data` reads, such as CoNLL, lists of words are
    yielded.

    Args:
        data: an `etude.data.examples.base.ExampleData`.
        quoting: how quotation marks in CSV and TSV are read; None means as in `data`.

    Raises:
        RequestError: the file can't be read, lacks the text column, or contains an empty line or an
            empty text.
    """
    file_format = format_of(file, without_suffix=True)
    if not file.is_file():
        raise RequestError(Problem("file", "an existing file", str(file)))
    if (native := data.texts_in(file)) is not None:
        yield from native
        return
    if file_format is None or not file_format.rows:
        for number, line in enumerate(lines_of(file), 1):
            if not line.strip():
                raise RequestError(Problem(f"{file}, line {number}", "non-empty text"))
            yield line.removesuffix("\n")
        return
    column, quoting = data.text_column, quoting or data.stated_quoting()
    existing = read_columns(file, file_format, quoting)
    if column not in existing:
        names = ", ".join(existing)
        hint = f"{file} has the columns {names}" if existing else f"{file} is empty"
        raise RequestError(Problem("file", f"a file with the column {column}", hint=hint))
    pair_column = data.second_column if data.second_column in existing else None
    columns = [column] if pair_column is None else [column, pair_column]
    for where, row in iterate_rows(file, file_format, columns, quoting):
        value = row[column]
        is_word_list = data.reads_words and _is_word_list(value)
        if not isinstance(value, str) and not is_word_list:
            expected = "text or a list of words" if data.reads_words else "text"
            raise RequestError(Problem(where, expected, value))
        if not "".join(value).strip():
            raise RequestError(Problem(where, "non-empty text"))
        check_surrogates(where, "".join(value))
        if pair_column is None:
            yield value if is_word_list else newlines(value)
        else:
            second = row[pair_column]
            if not isinstance(second, str) or not second.strip():
                position = f"{where}, column {pair_column}"
                raise RequestError(Problem(position, "non-empty text", second))
            check_surrogates(where, second)
            yield newlines(value), newlines(second)


def _is_word_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)
