"""The examples of an evaluation: a split of the run's data, or the rows of other files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.data.examples.source import Row
from etude.errors import Problem, RequestError


@dataclass(frozen=True)
class EvaluationRequest:
    """Selection of the examples to evaluate: a split of the run's data, or files.

    Attributes:
        split: split of the run's own data.
        files: files to evaluate instead of a split.
        by: column; rows with the same value in this column are also scored separately.
        quoting: how quotation marks in CSV and TSV files are read.
        tokenizer, labels: tokenizer and label names of the run.
    """

    split: str
    files: Sequence[str] | None = None
    by: str | None = None
    quoting: str | None = None
    tokenizer: Any = None
    labels: Sequence[str] = ()

    def without_rows(self, splits: Sequence[str], subject: str) -> str:
        """Returns the selected split of data that has no rows.

        Args:
            splits: names of the data's splits.
            subject: subject and verb for messages, such as `running text has`.

        Raises:
            RequestError: if the data has no such split, or the selection needs rows.
        """
        problems = []
        if self.files is not None:
            problems.append(
                Problem("--data", f"no files ({subject} no rows, only splits)", list(self.files))
            )
        if self.by is not None:
            problems.append(Problem("--by", f"no column ({subject} no columns)", self.by))
        if self.quoting is not None:
            problems.append(unused_quoting_problem(self.quoting))
        if self.files is None and self.split not in splits:
            expected = f"{' or '.join(splits)} ({subject} no other split)"
            problems.append(Problem("split", expected, self.split))
        if problems:
            raise RequestError(problems)
        return self.split


def unused_quoting_problem(quoting: str) -> Problem:
    """Returns the problem that `--quoting` is given but no CSV or TSV file is read."""
    return Problem("--quoting", "CSV or TSV files in --data", quoting)


@dataclass
class Evaluated:
    """Examples of an evaluation in batches, and the rows from which they were created.

    Attributes:
        data: the data module.
        split: the split; None for the rows of other files.
        batches: function that returns the batches, with each example once; `index` in a batch
            contains the examples' numbers.
        numbers: for data with rows, function that returns the row number of each example.
        rows: the rows with their contents; empty if the contents were not read.
        read: numbers of the rows that have text; only these rows have examples.
        labels_of: for rows with contents, function that returns the label names of a row, by its
            number.
        contents: function that reads the rows in `row_of`, by number, if `rows` is empty.
        in_order: for data that supports it, function that yields the arrays of the examples in the
            order of the data.
    """

    data: Any
    split: str | None
    batches: Callable[[], Iterable[Any]]
    numbers: Callable[[], NDArray[np.int64]] = lambda: np.zeros(0, np.int64)
    rows: Sequence[Row] = ()
    read: Sequence[int] = ()
    labels_of: Callable[[int], list[str]] | None = None
    contents: Callable[[], Mapping[int, Row]] | None = None
    in_order: Callable[[], Iterator[dict[str, Any]]] | None = None

    def examples(self) -> Iterator[dict[str, Any]]:
        """Yields the arrays of each example without padding, in the order of the data."""
        if self.in_order is not None:
            yield from self.in_order()
            return
        for batch in self.batches():
            arrays = {name: value for name, value in batch.items() if hasattr(value, "unbind")}
            for values in zip(*arrays.values(), strict=True):
                yield dict(zip(arrays, values, strict=True))

    def row(self, number: int) -> Row:
        """Returns the row with this number, including its contents."""
        return self.rows[number] if self.contents is None else self.contents()[number]

    @cached_property
    def row_of(self) -> NDArray[np.int64]:
        """Row number of each example."""
        return self.numbers()

    @property
    def text_bytes(self) -> int | None:
        """Number of UTF-8 bytes of the predicted text; None if unknown or if it is not text."""
        size: int | None = None if self.split is None else self.data.bytes_predicted(self.split)
        return size

    def text(self, row: int) -> str:
        """Returns the first text of a row."""
        text: str = self.data.texts(self.rows[row])[0]
        return text
