"""Sources of texts to score: a data set on the Hugging Face Hub, or a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from etude.errors import Checks, Problem, RequestError

log = logging.getLogger("etude")


class HubTexts:
    """Texts in a column of a data set on the Hugging Face Hub, read as a stream.

    Args:
        name, config, revision: see `etude.data.hub.Repository`.
        split: split of the data set.
        column: column that contains the texts.
        rows: number of rows to read from the start; None reads all.
    """

    def __init__(
        self,
        *,
        name: str,
        config: str | None = None,
        revision: str | None = None,
        split: str = "test",
        column: str = "text",
        rows: int | None = None,
    ) -> None:
        from etude.data.hub import Repository

        checks = Checks()
        self.repository = Repository(name, config, revision, key="measure")
        self.repository.noted(checks)
        if rows is not None:
            checks.positive(rows=rows)
        checks.done()
        self.split, self.column, self.limit = split, column, rows

    def read(self) -> Iterator[str]:
        """Yields the text of each row, including empty texts.

        Raises:
            RequestError: the Hugging Face Hub can't be reached, or the data set lacks the column.
        """
        from etude.data.rows import column_values

        where = f"{self.repository.name}, split {self.split}"
        with self.repository.explained():
            log.info("reading %s, commit %s", where, self.repository.commit)
            values = column_values(self.repository.rows(self.split, "measure"), self.column)
            for number, value in enumerate(islice(values, self.limit), 1):
                if not isinstance(value, str):
                    position = f"{where}, row {number}, column {self.column}"
                    raise RequestError(Problem(position, "text", value))
                yield value


class FileTexts:
    """Texts of a local file: a column of a JSON lines, CSV or Parquet file, or the content of any
    other file as a single text.

    Args:
        path: path of the file.
        column: column that contains the texts, for JSON lines, CSV and Parquet.
        rows: number of rows to read from the start; None reads all rows.
    """

    def __init__(self, *, path: str, column: str = "text", rows: int | None = None) -> None:
        if rows is not None:
            checks = Checks()
            checks.positive(rows=rows)
            checks.done()
        self.path, self.column, self.limit = Path(path), column, rows

    def read(self) -> Iterator[str]:
        """Yields the texts of the file.

        Raises:
            RequestError: the file is missing or can't be read.
        """
        from etude.data.formats import format_of
        from etude.data.rows import iterate_texts, iterate_values
        from etude.data.text_io import characters_of, convert_read_errors, scan

        if not self.path.is_file():
            raise RequestError(Problem("measure", "an existing file of texts", str(self.path)))
        file_format = format_of(self.path, without_suffix=True)
        if file_format is None or not file_format.rows:
            with convert_read_errors(self.path):
                yield "".join(characters_of(self.path, 0, scan(self.path).characters))
            return
        values = iterate_values(self.path, file_format, self.column)
        yield from islice((text for _, text in iterate_texts(values, tell=True)), self.limit)
