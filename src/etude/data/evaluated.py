"""What a model is evaluated on: a split of the data, or other rows."""

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
class Request:
    """What is asked of an evaluation.

    Attributes:
        split: of the run's own data.
        files: other files instead.
        by: a column; the rows with each of its values are scored apart too.
        quoting: of CSV and TSV among the files.
        tokenizer, labels: the run's.
    """

    split: str
    files: Sequence[str] | None = None
    by: str | None = None
    quoting: str | None = None
    tokenizer: Any = None
    labels: Sequence[str] = ()

    def without_rows(self, splits: Sequence[str], told: str) -> str:
        """The split, of data that has no rows.

        Args:
            splits: those that it has.
            told: what it has none of.

        Raises:
            RequestError: it has no such split, or rows are asked for.
        """
        problems = []
        if self.files is not None:
            problems.append(Problem("--data", f"none: {told} its own splits", list(self.files)))
        if self.by is not None:
            problems.append(Problem("--by", "none: it has no columns", self.by))
        if self.quoting is not None:
            problems.append(needless(self.quoting))
        if self.files is None and self.split not in splits:
            expected = f"{' or '.join(splits)}: {told} no other"
            problems.append(Problem("split", expected, self.split))
        if problems:
            raise RequestError(problems)
        return self.split


def needless(quoting: str) -> Problem:
    """Quoting is stated, and no file of rows is read."""
    return Problem("--quoting", "--data with files of rows beside it", quoting)


@dataclass
class Evaluated:
    """Examples in batches, and the rows that they are from.

    Attributes:
        data: the data module.
        split: None of other rows than its own.
        batches: makes the batches, each example once; `index` in a batch says which these are.
        numbers: of data with rows, makes the number of the row that each example is from.
        rows: with their contents, where these were read.
        read: the numbers of those that have text, and so examples.
        labels_of: of rows with their contents the names of a row's labels, by its number.
        contents: reads the rows that `row_of` names, where `rows` have no contents.
        in_order: makes the arrays of the examples in their order, of data that has them.
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
        """The arrays of each example without padding, as the data has them in order."""
        if self.in_order is not None:
            yield from self.in_order()
            return
        for batch in self.batches():
            arrays = {name: value for name, value in batch.items() if hasattr(value, "unbind")}
            for values in zip(*arrays.values(), strict=True):
                yield dict(zip(arrays, values, strict=True))

    def row(self, number: int) -> Row:
        """A row with its contents."""
        return self.rows[number] if self.contents is None else self.contents()[number]

    @cached_property
    def row_of(self) -> NDArray[np.int64]:
        """The row that each example is from."""
        return self.numbers()

    @property
    def text_bytes(self) -> int | None:
        """The UTF-8 bytes of what is predicted; None where that is no text, or not known."""
        found: int | None = None if self.split is None else self.data.bytes_predicted(self.split)
        return found

    def text(self, row: int) -> str:
        """The first text of a row."""
        found: str = self.data.texts(self.rows[row])[0]
        return found
