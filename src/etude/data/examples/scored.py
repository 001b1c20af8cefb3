"""Data of texts, pairs of texts or words, each with one or several numbers as targets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from etude.data.examples.encoding import encode
from etude.data.examples.source import Encoded, Inspection, Kinds, Row, join_words
from etude.data.examples.tables import TableData, pair_values, read_text
from etude.data.examples.word_data import WordData, split_words
from etude.data.rows import check_surrogates
from etude.data.tokenizer import Tokenizer
from etude.errors import Checks, Problem, RequestError


@dataclass(kw_only=True, eq=False)
class ScoredFiles(TableData):
    """Data of rows with a text and numbers, such as a rating or a similarity.

    The names of the columns with numbers are saved as the `labels` of the run. The model's head has
    one output for each of them.

    Args:
        path, validation, test: see `TableData`.
        tokenizer, sequence_length, batch, duplicates, fraction, bucket_steps, workers: see
            `ExampleData`.
        too_long: `truncate` cuts off the end of a text that is too long; `refuse` raises an error.
        text: column of the text.
        pair: column of a second text, which the model reads after the first; None if there is none.
            Both texts are compared for duplicates. If a pair is too long, the longer text is cut
            off first.
        score: column of the number, or several columns. Every value must be a finite number.
        quoting: `csv` if quotation marks can enclose a cell, `none` if they are regular characters;
            None detects this in TSV files, and means `csv` for CSV files.
    """

    text: str = "text"
    pair: str | None = None
    score: str | list[str] = "score"
    quoting: Literal["csv", "none"] | None = None
    too_long: Literal["truncate", "refuse"] = "truncate"
    pack: bool = field(default=False, init=False)

    fields: tuple[str, ...] = field(default=("tokens", "values"), init=False)
    kinds: ClassVar[Kinds] = Kinds(floats=frozenset({"values"}))
    chunks: ClassVar[bool] = False
    states_classes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pair is not None:
            self.fields = ("tokens", "types", "values")

    def validate(self, checks: Checks) -> None:
        names = self.scores
        distinct = bool(names) and len(set(names)) == len(names)
        expected = "a column name, or a list of different column names"
        checks.that(distinct, "score", self.score, expected)
        super().validate(checks)

    @property
    def scores(self) -> list[str]:
        """The names of the columns with numbers."""
        return [self.score] if isinstance(self.score, str) else list(self.score)

    def columns(self) -> dict[str, str | None]:
        columns = {"text": self.text, "pair": self.pair}
        if isinstance(self.score, str):
            return {**columns, "score": self.score}
        return columns | {f"score.{index}": name for index, name in enumerate(self.score)}

    @property
    def stated_labels(self) -> list[str]:
        return self.scores

    @property
    def second_column(self) -> str | None:
        return self.pair

    @property
    def text_column(self) -> str:
        return self.text

    def texts(self, row: Row) -> list[str]:
        texts = [read_text(row, name) for name in (self.text, self.pair) if name is not None]
        return texts if texts[0] else []

    def numbers_of(self, row: Row) -> list[float]:
        """Returns the numbers in the score columns of a row, in the order of these columns.

        Raises:
            RequestError: a value is not a finite number.
        """
        return [read_number(row, name) for name in self.scores]

    def inspection(self) -> Inspection:
        return NumberInspection(self.scores)

    def rows_of_texts(
        self, texts: Sequence[str | list[str]], pair: str | None, labels: Sequence[str]
    ) -> list[Row]:
        values = pair_values(self.pair, pair) | dict.fromkeys(self.scores, 0.0)
        return [Row("", {**values, self.text: join_words(text)}) for text in texts]

    def encoded(
        self, rows: Sequence[Row], tokenizer: Tokenizer, labels: Sequence[str]
    ) -> list[Encoded]:
        texts = [self.texts(row) for row in rows]
        pairs: Any = [tuple(each) if self.pair else each[0] for each in texts]
        result = []
        encodings = encode(pairs, tokenizer, self.sequence_length)
        for row, (piece, *rest) in zip(rows, encodings, strict=True):
            fields: dict[str, list[Any]] = {
                "tokens": piece.ids,
                "types": piece.type_ids,
                "values": self.numbers_of(row),
            }
            result.append(Encoded([fields], sum(len(each.ids) for each in rest)))
        return result


class NumberInspection(Inspection):
    """Inspection of numbers: checks that each row has a finite number in each of the columns.

    Args:
        columns: names of the columns with numbers.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns

    def row(self, row: Row) -> None:
        problems: list[Problem] = []
        for column in self.columns:
            try:
                read_number(row, column)
            except RequestError as error:
                problems += error.problems
        if problems:
            raise RequestError(problems)


def read_number(row: Row, column: str) -> float:
    """Returns the number in a column of a row; in rows of CSV and TSV, converts it from text.

    Raises:
        RequestError: the value is not a finite number.
    """
    return parse_number(
        f"{row.where}, column {column}", row.values[column], allow_text=not row.typed
    )


_NUMBER = re.compile(r" *-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)? *")
_LARGEST = float(np.finfo(np.float32).max)


def parse_number(where: str, value: Any, *, allow_text: bool = False) -> float:
    """Converts a value to a float, which must be within the range of float32.

    Args:
        where: position of the value in the data, for the error message.
        allow_text: whether the value may be text with a JSON number.

    Raises:
        RequestError: the value is not a number (Booleans and NaN are not), or is out of range.
    """
    number = math.nan
    is_number = bool(_NUMBER.fullmatch(value)) if allow_text and isinstance(value, str) else False
    if is_number or (isinstance(value, int | float) and not isinstance(value, bool)):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not abs(number) <= _LARGEST:
        too_large = math.isinf(number) or number == number
        hint = f"the absolute value can be at most {_LARGEST:.3g}" if too_large else None
        raise RequestError(Problem(where, "a finite number such as 3 or -0.5", value, hint))
    return number


@dataclass(kw_only=True, eq=False)
class ScoredWords(WordData, TableData):
    """Data of rows with a list of words and a list of numbers, from JSON or Parquet files.

    Args:
        path, validation, test: see `TableData`.
        tokenizer, sequence_length, batch, too_long, duplicates, fraction, bucket_steps, workers:
            see `ExampleData`.
        words: column of the words.
        values: column of the numbers, one per word; null means that the word has no number.
    """

    words: str = "words"
    values: str = "values"
    lists: ClassVar[bool] = True
    pack: bool = field(default=False, init=False)

    fields: tuple[str, ...] = field(default=("tokens", "values"), init=False)
    kinds: ClassVar[Kinds] = Kinds(floats=frozenset({"values"}))
    states_classes: ClassVar[bool] = False
    word_field: ClassVar[str] = "values"
    fill_value: ClassVar[float] = math.nan

    @property
    def stated_labels(self) -> list[str]:
        return [self.values]

    @property
    def text_column(self) -> str:
        return self.words

    def columns(self) -> dict[str, str | None]:
        return {"words": self.words, "values": self.values}

    def word_targets(self, row: Row, labels: Sequence[str]) -> list[float]:
        values: list[float] = row.values["values"]
        return values

    def inspection(self) -> Inspection:
        return Inspection()

    def _read_rows(self, split: str) -> Iterator[Row]:
        for row in super()._read_rows(split):
            words, values = read_word_values(row, self.words, self.values)
            yield row._replace(values={**row.values, "words": words, "values": values})

    def rows_of_texts(
        self, texts: Sequence[str | list[str]], pair: str | None, labels: Sequence[str]
    ) -> list[Row]:
        words = split_words(texts, pair)
        return [Row("", {"words": each, "values": [0.0] * len(each)}) for each in words]


def read_word_values(row: Row, words: str, values: str) -> tuple[list[str], list[float]]:
    """Returns the words of a row and their numbers; null becomes NaN.

    Args:
        words, values: names of the columns with the words and with the numbers.

    Raises:
        RequestError: the values are not lists of words and numbers, or their lengths differ.
    """
    items, scores = row.values[words], row.values[values]
    if not isinstance(items, list) or not all(isinstance(w, str) and w for w in items):
        raise RequestError(Problem(f"{row.where}, column {words}", "a list of words", items))
    where = f"{row.where}, column {values}"
    if not isinstance(scores, list) or len(scores) != len(items):
        raise RequestError(Problem(where, f"a list of {len(items)} numbers, one per word", scores))
    numbers = []
    for number, each in enumerate(scores, 1):
        position = f"{where}, number {number}"
        numbers.append(math.nan if each is None else parse_number(position, each))
    for word in items:
        check_surrogates(f"{row.where}, column {words}", word)
    return list(items), numbers
