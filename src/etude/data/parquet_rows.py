"""Reader of rows in Parquet files, which reads only the requested columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from etude.data.text_io import LONGEST, too_long_problem
from etude.errors import Problem, RequestError

GROUP = 256  # maximum number of rows read at a time
SIZE = 1 << 24  # approximate bytes of a group


def columns(file: Path) -> dict[str, bool]:
    """Returns a dict from each column name of a Parquet file to whether the column contains text.

    A column contains text if its declared type is a string type.

    Raises:
        RequestError: if a name is repeated.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def is_text(kind: Any) -> bool:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        type_checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
        return any(check(kind) for check in type_checks)

    with pq.ParquetFile(file) as table:
        names = list(table.schema_arrow.names)
        if duplicates := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            expected = "a column name that occurs only once"
            raise RequestError(Problem(str(file), expected, name) for name in duplicates)
        return {field.name: is_text(field.type) for field in table.schema_arrow}


def rows(file: Path, wanted: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields each row as a pair: its number, from 1, and a dict from column names to values.

    Args:
        file: a Parquet file.
        wanted: names of the columns to read.

    Raises:
        RequestError: a text has more than `LONGEST` characters; the message has the row number.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    count = 0
    with pq.ParquetFile(file, pre_buffer=False) as table:
        _check_sizes(file, table, wanted)
        for batch in table.iter_batches(_group_rows(table, wanted), columns=list(wanted)):
            for name in wanted:
                column = batch.column(name)
                kind = column.type
                if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                    continue
                longest = pc.max(pc.binary_length(column)).as_py() or 0
                if longest > LONGEST:  # in bytes, which are faster to count
                    longest = pc.max(pc.utf8_length(column)).as_py()
                if longest > LONGEST:
                    sizes = pc.utf8_length(column).to_pylist()
                    raise RequestError(
                        too_long_problem(f"{file}, row {count + sizes.index(longest) + 1}")
                    )
            values = [_values(batch.column(name), name, file, count) for name in wanted]
            for each in zip(*values, strict=True):
                count += 1
                yield count, dict(zip(wanted, each, strict=True))


def _values(column: Any, name: str, file: Path, rows: int) -> list[Any]:
    """Returns the values of a column of a group of rows.

    Args:
        column: an Arrow array.
        name: name of the column.
        file: the file, for messages.
        rows: number of rows before the group.

    Raises:
        RequestError: a text is not UTF-8, which Parquet requires.
    """
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        for number, value in enumerate(column, rows + 1):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                byte = f"0x{error.object[error.start]:02x}"
                where = f"{file}, row {number}, column {name}"
                raise RequestError(Problem(where, "UTF-8 text", byte)) from error
        raise


def _check_sizes(file: Path, table: Any, wanted: Sequence[str]) -> None:
    """Checks, before any data is read, that texts are not too long on average.

    The average is taken over each row group, a block of rows that Parquet stores together.

    Args:
        file: the file, for messages.
        table: the opened file, a `ParquetFile`.
        wanted: names of the columns to check.

    Raises:
        RequestError: if a column of a row group has more bytes than it could have if every text had
            `LONGEST` characters.
    """
    first = 1
    for number in range(table.metadata.num_row_groups):
        group = table.metadata.row_group(number)
        for index in range(group.num_columns):
            column = group.column(index)
            # A character has at most 4 bytes.
            max_bytes = 4 * LONGEST * group.num_rows
            is_wanted = column.path_in_schema.split(".")[0] in wanted
            if is_wanted and column.total_uncompressed_size > max_bytes:
                last = first + group.num_rows - 1
                where = f"row {first}" if last == first else f"one of the rows {first} to {last}"
                raise RequestError(too_long_problem(f"{file}, {where}"))
        first += group.num_rows


def _group_rows(table: Any, wanted: Sequence[str]) -> int:
    """Returns the number of rows to read at a time; fewer if rows are long.

    The number is at most `GROUP`. It is chosen so that rows of the file's mean size have at most
    `SIZE` bytes together, but is at least 1.

    Args:
        table: the opened file, a `ParquetFile`.
        wanted: names of the columns to read.
    """
    size = 0
    for number in range(table.metadata.num_row_groups):
        group = table.metadata.row_group(number)
        for index in range(group.num_columns):
            column = group.column(index)
            if column.path_in_schema.split(".")[0] in wanted:
                size += column.total_uncompressed_size
    mean = size / max(1, table.metadata.num_rows)
    return int(max(1, min(GROUP, SIZE // max(1.0, mean))))
