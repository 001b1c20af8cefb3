"""Streaming readers of the columns and values of files with rows.

Values are read unchanged: cells of CSV and TSV are text, and no type is inferred. (The builders of
the `datasets` library infer a type for each column of JSON from the first rows.)
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from etude.data import delimited, json_rows, parquet_rows
from etude.data.delimited import Quoting
from etude.data.formats import Format, format_of, open_zstd
from etude.data.splits import Document
from etude.data.text_io import convert_read_errors, scan
from etude.errors import EtudeError, Problem, RequestError, nearest

READING = 2
"""Version of the row reader; data prepared by an earlier version is prepared again."""

HEAD = 100  # rows inspected for their columns, where the format doesn't list them
GROUP = 256  # rows read at a time

log = logging.getLogger("etude.data")


def read_columns(file: Path, form: Format, quoting: Quoting | None = None) -> dict[str, bool]:
    """Returns a dict from the name of each column of a file to whether the column contains text.

    All columns of CSV and TSV contain text; the types in a Parquet file are declared. For JSON, the
    first `HEAD` rows decide. The dict is empty for a JSON file without rows.

    Args:
        file: the file.
        form: format of the file.
        quoting: how quotation marks are read; see `etude.data.delimited.uses_csv_quoting`.

    Raises:
        RequestError: if the file is not in the format that its name indicates.
    """
    with _convert_errors(file, form):
        if form.kind == "csv":
            return dict.fromkeys(filter(None, delimited.header(file, form, quoting)), True)
        if form.kind == "parquet":
            return parquet_rows.columns(file)
        return infer_text_columns(row for _, row in islice(json_rows.rows(file), HEAD))


def iterate_values(
    file: Path, form: Format, column: str, quoting: Quoting | None = None
) -> Iterator[tuple[str, Any]]:
    """Yields the values of a column in order, each as a pair (position, value).

    The position is text for messages, such as `a.csv, line 3`. A null value, and a key that is
    missing in a row of JSON, is None.

    Args:
        file: the file.
        form: format of the file.
        column: name of the column.
        quoting: how quotation marks are read; see `etude.data.delimited.uses_csv_quoting`.

    Raises:
        RequestError: if the file is damaged or not in the format that its name indicates; the
            message contains the position.
    """
    for where, row in iterate_rows(file, form, [column], quoting):
        yield where, row[column]


def iterate_rows(
    file: Path, form: Format, columns: Sequence[str], quoting: Quoting | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields all rows in order, each as a pair (position, dict from column names to values).

    The position is text for messages, such as `a.csv, line 3`. A key that is missing in a row of
    JSON has the value None.

    Args:
        file: the file.
        form: format of the file.
        columns: names of the columns to read.
        quoting: how quotation marks are read; see `etude.data.delimited.uses_csv_quoting`.

    Raises:
        RequestError: as for `iterate_values`.
    """
    with _convert_errors(file, form):
        if form.kind == "json":
            for where, row in json_rows.rows(file):
                yield f"{file}, {where}", {name: row.get(name) for name in columns}
        elif form.kind == "csv":
            for line, cells in delimited.rows(file, form, quoting):
                yield f"{file}, line {line}", {name: cells[name] for name in columns}
        else:
            for number, row in parquet_rows.rows(file, columns):
                yield f"{file}, row {number}", row


def row_values(rows: Any, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields each row of a dataset as a dict from the names in `columns` to the row's values.

    A null value is None.

    Args:
        rows: a streamed or downloaded dataset of the `datasets` library.
        columns: names of the columns.
    """
    for group in rows.select_columns(list(columns)).iter(batch_size=GROUP):
        for values in zip(*(group[name] for name in columns), strict=True):
            yield dict(zip(columns, values, strict=True))


def column_values(rows: Any, column: str) -> Iterator[Any]:
    """Yields all values of a column of a dataset, in order; a null value is None.

    Args:
        rows: a streamed or downloaded dataset of the `datasets` library.
        column: name of the column.
    """
    for group in rows.select_columns([column]).iter(batch_size=GROUP):
        yield from group[column]


def iterate_texts(values: Iterable[tuple[str, Any]], *, tell: bool) -> Iterator[tuple[str, str]]:
    """Yields the texts among `values`, each as a pair (position, text).

    Null and empty text are skipped.

    Args:
        values: pairs (position, value); the position is text for messages.
        tell: whether to log how many null values were skipped.

    Raises:
        RequestError: if a value is neither text nor null; the message contains the position.
    """
    skipped = 0
    for where, value in values:
        if value is None:
            skipped += 1
            continue
        if not isinstance(value, str):
            raise RequestError(Problem(where, "text or null", value))
        check_surrogates(where, value)
        if value:
            yield where, value
    if skipped and tell:
        log.info("skipped %s rows without text", f"{skipped:,}")


def choose_column(
    columns: Mapping[str, bool], stated: str | None, where: str, key: str = "data.column"
) -> str:
    """Returns the column to read: the configured one, else `text`, else the only text column.

    Args:
        columns: dict from the name of each column to whether the column contains text.
        stated: the column that the config names, or None.
        where: name of the file or dataset with these columns, for messages.
        key: the config key of the column, for messages.

    Raises:
        RequestError: if the configured column is missing; or if none is configured and there is no
            text column, or several.
    """
    if stated is not None:
        if stated in columns:
            return stated
        hint = f"{where} has {_format_columns(columns)}"
        if close := nearest(stated, columns):
            hint += f"; {close}" if close.startswith("did you mean") else ""
        raise RequestError(Problem(key, "an existing column", stated, hint))
    with_text = [name for name, has_text in columns.items() if has_text]
    if "text" in with_text:
        return "text"
    # A column named `text` that has no text makes the choice ambiguous.
    if len(with_text) == 1 and "text" not in columns:
        return with_text[0]
    expected = "the name of the text column" if with_text else "a column with text"
    raise RequestError(Problem(key, expected, None, f"{where} has {_format_columns(columns)}"))


def declared_text_columns(features: Mapping[str, Any]) -> dict[str, bool]:
    """Returns a dict from the name of each column to whether the column's type is text.

    The types `string` and `large_string` are text.

    Args:
        features: types of the columns, as in `features` of a dataset of the `datasets` library.
    """
    return {
        name: getattr(feature, "dtype", None) in ("string", "large_string")
        for name, feature in features.items()
    }


def infer_text_columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """Returns a dict from the name of each column to whether the column contains text.

    A column contains text if some of its values are text and all other values are null. A column
    that is missing in a row is judged by the other rows.

    Args:
        rows: dicts from the names of columns to values.
    """
    seen: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            seen.setdefault(name, set()).add(type(value))
    return {name: types - {type(None)} == {str} for name, types in seen.items()}


def split_rows(
    documents: Iterable[Document], *, held_out: bool, validation: float
) -> Iterator[Document]:
    """Yields the documents that belong to the validation split, or those of the training split.

    Document i (from 0) is held out for validation if floor((i + 1) v) > floor(i v); with v = 0.1
    that is every tenth document. The split depends on i alone, so documents appended at the end
    don't move earlier ones to the other split.

    Args:
        documents: all documents in order, as pairs (origin in words, text).
        held_out: whether to yield the validation documents rather than the training documents.
        validation: v, the held-out fraction.

    Raises:
        RequestError: if `held_out` is true and no document is held out.
    """
    count = yielded = 0
    for count, document in enumerate(documents, 1):
        if (int(count * validation) > int((count - 1) * validation)) == held_out:
            yielded += 1
            yield document
    if held_out and not yielded:
        expected = f"a fraction that holds out at least one of the {count} rows with text"
        hint = None
        if count > 1:
            hint = f"set data.validation={-(-1000 // count) / 1000:g}"
        raise RequestError(Problem("data.validation", expected, validation, hint))


def quiet_datasets() -> Any:
    """Returns the `datasets` library, with its log messages and download counts switched off.

    The library's reader of zstd files is replaced by one that detects truncated files.
    """
    import datasets  # type: ignore[import-untyped]
    import huggingface_hub
    from fsspec.compression import register_compression  # type: ignore[import-untyped]

    datasets.utils.logging.set_verbosity(logging.CRITICAL)
    if not sys.stderr.isatty():  # download bars are unreadable in a log
        datasets.disable_progress_bars()
    huggingface_hub.logging.set_verbosity_error()
    # Otherwise each load sends a request to a third party.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = 4
    register_compression("zstd", open_zstd, "zst", force=True)
    return datasets


@contextmanager
def _convert_errors(file: Path, form: Format) -> Iterator[None]:
    """Context manager that converts exceptions into a `RequestError` that names the file.

    All exceptions are converted, except `MemoryError` and Étude's own.
    """
    try:
        with convert_read_errors(file):
            yield
    except (EtudeError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, UnicodeDecodeError) and form.kind != "parquet":
            scan(file)  # reports the line and the byte
        reason = str(error).strip().splitlines()
        expected = f"a valid {form.suffix} file"
        raise RequestError(
            Problem(str(file), expected, hint=reason[0] if reason else type(error).__name__)
        ) from error


def check_surrogates(where: str, text: str) -> None:
    """Checks that `text` has no lone surrogate (half of a character, which UTF-8 can't encode).

    Args:
        where: position of the text, for messages.
        text: the text.

    Raises:
        RequestError: if the text has a lone surrogate; the message contains the position.
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        expected = "valid Unicode text, without lone surrogates"
        raise RequestError(Problem(where, expected, text[error.start])) from error


def find_unused_quoting(quoting: Quoting | None, files: Sequence[Path]) -> list[Problem]:
    """Returns a list with a problem if `data.quoting` is set and no file is CSV or TSV; else [].

    Args:
        quoting: value of `data.quoting`; None if it is not set.
        files: all files of the corpus.
    """
    forms = [format_of(file) for file in files]
    if quoting is None or any(form is not None and form.kind == "csv" for form in forms):
        return []
    return [Problem("data.quoting", "null (no file is CSV or TSV)", quoting)]


def newlines(text: str) -> str:
    """Returns the text with every kind of line end replaced by a newline."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _format_columns(columns: Mapping[str, bool]) -> str:
    if not columns:
        return "no columns"
    names = [name if text else f"{name} (no text)" for name, text in columns.items()]
    shown = ", ".join(names[:12])
    return f"the columns {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")
