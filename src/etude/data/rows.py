"""Files of rows: which columns they have, and the values of some, streamed.

What stands in the file is what is read: cells of CSV and TSV are text, and no type is guessed. (The
builders of the library `datasets` guess one for each column of JSON from the first rows.)
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
from etude.data.plain import explained, scan
from etude.data.splits import Document
from etude.errors import EtudeError, Problem, RequestError, nearest

READING = 2
"""The version of how rows are read; what an earlier one has prepared is prepared anew."""

HEAD = 100  # rows that say which columns there are, where the format itself doesn't
GROUP = 256  # rows read at a time

log = logging.getLogger("etude.data")


def columns_of(file: Path, form: Format, quoting: Quoting | None = None) -> dict[str, bool]:
    """The names of the file's columns, and whether each holds text; empty if it has no rows.

    Args:
        quoting: see `etude.data.delimited.quoted`.

    Raises:
        RequestError: it can't be read as what its name says.
    """
    with _explained(file, form):
        if form.kind == "csv":
            return dict.fromkeys(filter(None, delimited.header(file, form, quoting)), True)
        if form.kind == "parquet":
            return parquet_rows.columns(file)
        return seen_columns(row for _, row in islice(json_rows.rows(file), HEAD))


def values_of(
    file: Path, form: Format, column: str, quoting: Quoting | None = None
) -> Iterator[tuple[str, Any]]:
    """All that stands in a column, in order: where each value is, and the value.

    Raises:
        RequestError: the file is damaged, or isn't what its name says; says where.
    """
    for where, row in records_of(file, form, [column], quoting):
        yield where, row[column]


def records_of(
    file: Path, form: Format, columns: Sequence[str], quoting: Quoting | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """All rows in order: where each is, such as `a.csv, line 3`, and its values by column.

    Raises:
        RequestError: as `values_of`.
    """
    with _explained(file, form):
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
    """The rows of a data set of `datasets`, streamed or not, with these columns alone."""
    for group in rows.select_columns(list(columns)).iter(batch_size=GROUP):
        for values in zip(*(group[name] for name in columns), strict=True):
            yield dict(zip(columns, values, strict=True))


def column_values(rows: Any, column: str) -> Iterator[Any]:
    """All values of a column of a data set of `datasets`, streamed or not, in order."""
    for group in rows.select_columns([column]).iter(batch_size=GROUP):
        yield from group[column]


def texts(values: Iterable[tuple[str, Any]], *, tell: bool) -> Iterator[tuple[str, str]]:
    """The texts among `values`, with where each is; rows that have none are left out.

    Args:
        values: where each comes from, for messages, and what it is.
        tell: say in the log how many were left out.

    Raises:
        RequestError: a value is neither text nor null; says where.
    """
    left_out = 0
    for where, value in values:
        if value is None:
            left_out += 1
            continue
        if not isinstance(value, str):
            raise RequestError(Problem(where, "text or null", value))
        check_surrogates(where, value)
        if value:
            yield where, value
    if left_out and tell:
        log.info("%s rows without text are left out", f"{left_out:,}")


def choose_column(
    found: Mapping[str, bool], stated: str | None, where: str, key: str = "data.column"
) -> str:
    """The column to read: the one stated, else `text`, else the only one that holds text.

    Args:
        found: the columns there are, and whether each holds text.
        stated: what the config says.
        where: what has these columns.
        key: the config's, that says it.

    Raises:
        RequestError: there is no such column, or it isn't clear which is meant.
    """
    if stated is not None:
        if stated in found:
            return stated
        hint = f"{where} has {_listed(found)}"
        if close := nearest(stated, found):
            hint += f"; {close}" if close.startswith("did you mean") else ""
        raise RequestError(Problem(key, "a column that is there", stated, hint))
    text = [name for name, holds_text in found.items() if holds_text]
    if "text" in text:
        return "text"
    if len(text) == 1 and "text" not in found:  # one of that name without text is a doubt
        return text[0]
    expected = "the column that holds the text" if text else "a column that holds text"
    raise RequestError(Problem(key, expected, None, f"{where} has {_listed(found)}"))


def text_columns(features: Mapping[str, Any]) -> dict[str, bool]:
    """Columns by the types that `datasets` states for them."""
    return {
        name: getattr(feature, "dtype", None) in ("string", "large_string")
        for name, feature in features.items()
    }


def seen_columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """Columns by what stands in them: text, if there is some and nothing else but null."""
    seen: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            seen.setdefault(name, set()).add(type(value))
    return {name: types - {type(None)} == {str} for name, types in seen.items()}


def split_rows(
    documents: Iterable[Document], *, held_out: bool, validation: float
) -> Iterator[Document]:
    """The documents of one split: document i (from 0) is held out if floor((i + 1) v) > floor(i v).

    With v = 0.1 that is every tenth. It depends on i alone, so more documents at the end don't
    move those before them from one split to the other.

    Args:
        documents: all of them, in order.
        held_out: give those for validation, rather than those for training.
        validation: v, the part that is held out.

    Raises:
        RequestError: none is held out.
    """
    count = given = 0
    for count, document in enumerate(documents, 1):
        if (int(count * validation) > int((count - 1) * validation)) == held_out:
            given += 1
            yield document
    if held_out and not given:
        expected = f"a part that holds out one of the {count} rows with text, or more"
        hint = None
        if count > 1:
            hint = f"data.validation={-(-1000 // count) / 1000:g}"
        raise RequestError(Problem("data.validation", expected, validation, hint))


def quiet_datasets() -> Any:
    """The library `datasets`, told not to print, and with a zstd reader that notices a cut file."""
    import datasets  # type: ignore[import-untyped]
    import huggingface_hub
    from fsspec.compression import register_compression  # type: ignore[import-untyped]

    datasets.utils.logging.set_verbosity(logging.CRITICAL)
    if not sys.stderr.isatty():  # bars of downloads; nobody wants them in a log
        datasets.disable_progress_bars()
    huggingface_hub.logging.set_verbosity_error()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it calls a third party at each load
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = 4
    register_compression("zstd", open_zstd, "zst", force=True)
    return datasets


@contextmanager
def _explained(file: Path, form: Format) -> Iterator[None]:
    """Says what is wrong with `file`, and where, for what the libraries raise."""
    try:
        with explained(file):
            yield
    except (EtudeError, MemoryError):
        raise
    except UnicodeDecodeError:
        scan(file)  # reports the line and the byte
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        expected = f"a {form.suffix} file that can be read"
        raise RequestError(
            Problem(str(file), expected, hint=reason[0] if reason else type(error).__name__)
        ) from error


def check_surrogates(where: str, text: str) -> None:
    """Refuses what JSON can say and no text is.

    Raises:
        RequestError: says where.
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        expected = "text: half of a surrogate pair stands for no character"
        raise RequestError(Problem(where, expected, text[error.start])) from error


def needless_quoting(quoting: Quoting | None, files: Sequence[Path]) -> list[Problem]:
    """A problem if `data.quoting` is stated and none of the files has cells in quotation marks."""
    forms = [format_of(file) for file in files]
    if quoting is None or any(form is not None and form.kind == "csv" for form in forms):
        return []
    return [Problem("data.quoting", "null: no file is CSV or TSV", quoting)]


def newlines(text: str) -> str:
    """The text with each kind of line end as a newline."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _listed(columns: Mapping[str, bool]) -> str:
    if not columns:
        return "no columns"
    names = [name if text else f"{name} (no text)" for name, text in columns.items()]
    shown = ", ".join(names[:12])
    return f"the columns {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")
