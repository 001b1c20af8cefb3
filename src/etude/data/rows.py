"""Files of rows: which columns they have, and one column's values, a row a document.

The rows come from the builders that the library `datasets` packages, streamed, so that memory
doesn't grow with the file. Of JSON they give the lines, which are taken apart here: the library's
own JSON builder guesses a type for each column from the first rows, so that dates become something
else than text, a number among texts becomes text, and a key that only later rows have is an error.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from etude.data.formats import Format, open_bytes, open_zstd
from etude.data.plain import explained, scan
from etude.errors import EtudeError, Problem, RequestError, nearest

HEAD = 100  # rows that say which columns there are, where the format itself doesn't
GROUP = 256  # rows read at a time

_JSON = "JSON: an object a line, or one list of objects"

log = logging.getLogger("etude.data")


def columns_of(file: Path, form: Format) -> dict[str, bool]:
    """The names of the file's columns, and whether each holds text; empty if it has no rows.

    Raises:
        RequestError: it can't be read as what its name says.
    """
    with _explained(file, form):
        if form.kind == "csv":
            return dict.fromkeys(_header(file, form), True)
        if form.kind == "parquet":
            with _streamed("parquet", file) as table:
                return text_columns(table.features)
        rows = _json_list(file) if _is_list(file) else _json_lines(file, _lines(file))
        return seen_columns(row for _, row in islice(rows, HEAD))


def values_of(file: Path, form: Format, column: str) -> Iterator[tuple[int, Any]]:
    """All that stands in a column, in order: the number of the row, from 1, and its value.

    In a file of JSON lines the number is that of the line.

    Raises:
        RequestError: the file is damaged, or isn't what its name says; with the line where there
            is one.
    """
    for number, row in records_of(file, form, [column]):
        yield number, row[column]


def records_of(
    file: Path, form: Format, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """All rows in order: the number of each, as for `values_of`, and its values by column.

    Raises:
        RequestError: as `values_of`.
    """
    with _explained(file, form):
        if form.kind == "json":
            if _is_list(file):
                for number, row in _json_list(file):
                    yield number, {name: row.get(name) for name in columns}
                return
            with _streamed("text", file, encoding="utf-8-sig") as lines:
                for number, row in _json_lines(file, column_values(lines, "text")):
                    yield number, {name: row.get(name) for name in columns}
        elif form.kind == "csv":
            import datasets  # type: ignore[import-untyped]

            # Stated for every column, or pandas guesses types: 007 would be the number 7.
            text = datasets.Features(
                {name: datasets.Value("string") for name in _header(file, form)}
            )
            options = _csv_options(form) | {"features": text, "chunksize": GROUP}
            with _streamed("csv", file, **options) as rows:
                yield from enumerate(row_values(rows, columns), 1)
        else:
            options = {"columns": list(columns), "batch_size": GROUP}
            with _streamed("parquet", file, **options) as rows:
                yield from enumerate(row_values(rows, columns), 1)


def row_values(rows: Any, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a data set of `datasets`, streamed or not, with these columns alone."""
    for group in rows.select_columns(list(columns)).iter(batch_size=GROUP):
        for values in zip(*(group[name] for name in columns), strict=True):
            yield dict(zip(columns, values, strict=True))


def column_values(rows: Any, column: str) -> Iterator[Any]:
    """All values of a column of a data set of `datasets`, streamed or not, in order."""
    for group in rows.select_columns([column]).iter(batch_size=GROUP):
        yield from group[column]


def texts(values: Iterable[tuple[str, Any]], *, tell: bool) -> Iterator[str]:
    """The texts among `values`; rows that have none are left out.

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
            yield value
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


def split_rows(documents: Iterable[str], *, held_out: bool, validation: float) -> Iterator[str]:
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
    import datasets
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
def _streamed(kind: str, file: Path, **options: Any) -> Iterator[Any]:
    """A packaged builder's rows of one file: an `IterableDataset`."""
    quiet_datasets()
    from datasets.packaged_modules.csv.csv import Csv  # type: ignore[import-untyped]
    from datasets.packaged_modules.parquet.parquet import Parquet  # type: ignore[import-untyped]
    from datasets.packaged_modules.text.text import Text  # type: ignore[import-untyped]

    builders: dict[str, Any] = {"text": Text, "csv": Csv, "parquet": Parquet}
    # The builder makes itself a folder, and takes a path for a pattern or, compressed, for a URL.
    with tempfile.TemporaryDirectory(prefix="etude-rows-") as folder:
        link = Path(folder, "rows" + "".join(file.suffixes[-2:]).lower())
        link.symlink_to(file.absolute())
        builder = builders[kind](cache_dir=folder, data_files=[str(link)], **options)
        yield builder.as_streaming_dataset(split="train")


def _lines(file: Path) -> Iterator[str]:
    with io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig") as stream:
        yield from stream


def _is_list(file: Path) -> bool:
    """Whether the JSON file is one list, rather than an object a line."""
    with io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig") as stream:
        while character := stream.read(1):
            if not character.isspace():
                return character == "["
    return False


def _json_list(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of one list, which can't be read in pieces."""
    try:
        found = json.loads("".join(_lines(file)))
    except (ValueError, RecursionError) as error:
        raise RequestError(_broken_json(file, error)) from error
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise RequestError(Problem(f"{file}, row {number}", "an object", row))
        yield number, row


def _json_lines(file: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """An object a line, with the number of the line; empty lines are none."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.rstrip())
        except (ValueError, RecursionError) as error:
            raise RequestError(_broken_json(file, error, number)) from error
        if not isinstance(row, dict):
            raise RequestError(Problem(f"{file}, line {number}", _JSON, row))
        yield number, row


def _broken_json(file: Path, error: Exception, line: int | None = None) -> Problem:
    where, hint = str(file), str(error)
    if isinstance(error, json.JSONDecodeError):
        where += f", line {line or error.lineno}, column {error.colno}"
        hint = error.msg
    elif line is not None:
        where += f", line {line}"
    return Problem(where, _JSON, hint=hint)


def _csv_options(form: Format) -> dict[str, Any]:
    # NA and an empty cell are texts as they stand.
    return {
        "sep": "\t" if form.suffix == ".tsv" else ",",
        "encoding": "utf-8-sig",
        "keep_default_na": False,
    }


def _header(file: Path, form: Format) -> list[str]:
    import pandas as pd

    with open_bytes(file) as stream:
        try:
            head = pd.read_csv(stream, nrows=1, dtype=str, **_csv_options(form))
        except pd.errors.EmptyDataError:
            return []
    if not isinstance(head.index, pd.RangeIndex):  # pandas takes the first for names of the rows
        count = head.index.nlevels + len(head.columns)
        expected = f"as many cells as the header names, {len(head.columns)}"
        hint = "a cell with the separator in it stands in quotes"
        raise RequestError(Problem(f"{file}, line 2", expected, count, hint))
    return [str(name) for name in head.columns]


@contextmanager
def _explained(file: Path, form: Format) -> Iterator[None]:
    """Says what is wrong with `file`, and where, for what the libraries raise."""
    try:
        with explained(file):
            yield
    except (EtudeError, MemoryError):
        raise
    except Exception as error:
        if form.kind != "parquet":
            scan(file)  # says where it isn't UTF-8
        reason = str(error).strip().splitlines()
        line = re.search(r"\bin line (\d+)", str(error))
        where = f"{file}, line {line[1]}" if line else str(file)
        expected = f"a {form.suffix} file that can be read"
        raise RequestError(
            Problem(where, expected, hint=reason[0] if reason else type(error).__name__)
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


def _listed(columns: Mapping[str, bool]) -> str:
    if not columns:
        return "no columns"
    names = [name if text else f"{name} (no text)" for name, text in columns.items()]
    shown = ", ".join(names[:12])
    return f"the columns {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")
