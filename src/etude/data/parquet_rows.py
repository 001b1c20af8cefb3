"""Rows of Parquet: of a file only the columns that are asked for are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from etude.data.plain import LONGEST, too_long
from etude.errors import Problem, RequestError

GROUP = 256  # rows read at a time, at most
SIZE = 1 << 24  # bytes of a group, about


def columns(file: Path) -> dict[str, bool]:
    """The names of the columns, and whether each holds text.

    Raises:
        RequestError: a name stands twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def is_text(kind: Any) -> bool:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        of_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
        return any(each(kind) for each in of_text)

    with pq.ParquetFile(file) as table:
        names = list(table.schema_arrow.names)
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            expected = "names of columns that all differ"
            raise RequestError(Problem(str(file), expected, name) for name in twice)
        return {field.name: is_text(field.type) for field in table.schema_arrow}


def rows(file: Path, wanted: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """All rows, with the number of each, from 1, and its values in the columns that are wanted."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    count = 0
    with pq.ParquetFile(file, pre_buffer=False) as table:
        _check_sizes(file, table, wanted)
        for batch in table.iter_batches(_group(table, wanted), columns=list(wanted)):
            for name in wanted:
                column = batch.column(name)
                kind = column.type
                if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                    continue
                longest = pc.max(pc.binary_length(column)).as_py() or 0
                if longest > LONGEST:
                    sizes = pc.binary_length(column).to_pylist()
                    raise RequestError(too_long(f"{file}, row {count + sizes.index(longest) + 1}"))
            values = [batch.column(name).to_pylist() for name in wanted]
            for each in zip(*values, strict=True):
                count += 1
                yield count, dict(zip(wanted, each, strict=True))


def _check_sizes(file: Path, table: Any, wanted: Sequence[str]) -> None:
    """Refuses groups of rows whose mean is too long, before anything of them is read."""
    first = 1
    for number in range(table.metadata.num_row_groups):
        group = table.metadata.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            # A character has at most 4 bytes.
            most = 4 * LONGEST * group.num_rows
            inside = column.path_in_schema.split(".")[0] in wanted
            if inside and column.total_uncompressed_size > most:
                last = first + group.num_rows - 1
                where = f"row {first}" if last == first else f"one of the rows {first} to {last}"
                raise RequestError(too_long(f"{file}, {where}"))
        first += group.num_rows


def _group(table: Any, wanted: Sequence[str]) -> int:
    """Rows to read at a time: fewer where they are long."""
    size = 0
    for number in range(table.metadata.num_row_groups):
        group = table.metadata.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            if column.path_in_schema.split(".")[0] in wanted:
                size += column.total_uncompressed_size
    mean = size / max(1, table.metadata.num_rows)
    return int(max(1, min(GROUP, SIZE // max(1.0, mean))))
