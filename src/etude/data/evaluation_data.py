"""The examples of an evaluation: a split of the run's data, or the rows of other files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.counts import counted
from etude.data.examples.source import Row
from etude.errors import Problem, RequestError


@dataclass(frozen=True)
class EvaluationRequest:
    """Selection of the examples to evaluate: a split of the run's data, or files.

    Attributes:
        split: name of a split of the run's own data; unused if `files` is set.
        files: files to evaluate instead of a split; None for the split.
        by: name of a column; the rows are also scored in groups with the same value of this column.
            If None, there are no groups.
        quoting: `csv` if quotation marks in CSV and TSV files can enclose a cell, `none` if they
            are regular characters. If None, this is detected.
        tokenizer, labels: tokenizer and label names of the run.
    """

    split: str
    files: Sequence[str] | None = None
    by: str | None = None
    quoting: str | None = None
    tokenizer: Any = None
    labels: Sequence[str] = ()

    def without_rows(self, splits: Sequence[str], subject: str) -> str:
        """Checks a request for data without rows, such as continuous text; returns its `split`.

        Args:
            splits: names of the data's splits.
            subject: description of the data with the verb "has", for messages, such as `synthetic
                data has`.

        Raises:
            RequestError: if the data has no such split; or if `files`, `by` or `quoting` is set
                (these three need data with rows).
        """
        problems = []
        if self.files is not None:
            problems.append(
                Problem("files", f"no files ({subject} no rows, only splits)", list(self.files))
            )
        if self.by is not None:
            problems.append(Problem("by", f"no column ({subject} no columns)", self.by))
        if self.quoting is not None:
            problems.append(unused_quoting_problem(self.quoting))
        if self.files is None and self.split not in splits:
            expected = f"{' or '.join(splits)} ({subject} no other split)"
            problems.append(Problem("split", expected, self.split))
        if problems:
            raise RequestError(problems)
        return self.split


def unused_quoting_problem(quoting: str) -> Problem:
    """Returns the problem to report if `quoting` is given and no CSV or TSV file is read."""
    expected = "no value, because none of the evaluated files is a CSV or TSV file"
    return Problem("quoting", expected, quoting)


@dataclass
class Evaluated:
    """Examples of an evaluation in batches, and the rows from which the examples were created.

    Attributes:
        data: the data module.
        split: name of the evaluated split; None if the rows are from other files.
        batches: function that returns an iterable of batches, in which each example occurs once.
            For data with rows, the key `index` of a batch contains the indices of its examples,
            from 0.
        numbers: for data with rows, function that returns an array with the row number of each
            example, in the order of the indices: the row's index in `rows` or, if `rows` is empty,
            its number within the split, from 0. For other data, the array is empty.
        rows: the rows with their contents; empty if the contents were not read.
        read: if `rows` is not empty, the indices in `rows` of the rows that have text; only these
            rows have examples.
        labels_of: if `rows` is not empty and the rows have labels, function that takes the index
            of a row in `rows` and returns the names of its labels; otherwise None.
        contents: if `rows` is empty, function that reads the rows from which the examples were
            created, and returns a dict from row numbers to rows; None if there is no such function.
        in_order: function that yields each example as a dict of NumPy arrays without padding, in
            the order of the data; None if there is no such function.
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

    def __repr__(self) -> str:
        subject = "other files" if self.split is None else f"split {self.split!r}"
        kind = type(self.data).__name__
        return f"Evaluated({subject} of {kind}, {counted(len(self.rows), 'row')} read)"

    def examples(self) -> Iterator[dict[str, Any]]:
        """Yields each example as a dict from names, such as `tokens`, to arrays.

        If `in_order` is set, these are NumPy arrays without padding, in the order of the data.
        Otherwise they are tensors from `batches`, in the order and with the padding of the batches.
        """
        if self.in_order is not None:
            yield from self.in_order()
            return
        for batch in self.batches():
            arrays = {name: value for name, value in batch.items() if hasattr(value, "unbind")}
            for values in zip(*arrays.values(), strict=True):
                yield dict(zip(arrays, values, strict=True))

    def row(self, number: int) -> Row:
        """Returns a row by its number, with its contents, which are read if necessary."""
        return self.rows[number] if self.contents is None else self.contents()[number]

    @cached_property
    def row_of(self) -> NDArray[np.int64]:
        """Row number of each example."""
        return self.numbers()

    @property
    def text_bytes(self) -> int | None:
        """Number of UTF-8 bytes of the text that is predicted; None if unknown or without text.

        It is None, too, if the rows are from other files.
        """
        size: int | None = None if self.split is None else self.data.bytes_predicted(self.split)
        return size

    def text(self, row: int) -> str:
        """Returns the text of a row; the first one if a row has several texts.

        Args:
            row: index of the row in `rows`.
        """
        text: str = self.data.texts(self.rows[row])[0]
        return text
