"""Data of texts, or pairs of texts, each with a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from etude.data.examples.classes import (
    LabelInspection,
    check_label_names,
    class_key,
    class_numbers,
    parse_label,
)
from etude.data.examples.encoding import encode
from etude.data.examples.source import Encoded, Inspection, Row, join_words
from etude.data.examples.tables import (
    TableData,
    pair_values,
    read_text,
)
from etude.data.tokenizer import Tokenizer
from etude.errors import Checks, Problem, RequestError


@dataclass(kw_only=True, eq=False)
class LabelledFiles(TableData):
    """Data of rows with a text, or a pair of texts, and a label.

    Args:
        path, validation, test: see `TableData`.
        tokenizer, sequence_length, batch, too_long, duplicates, fraction, bucket_steps, workers,
            pack: see `ExampleData`.
        text: column of the text.
        pair: column of a second text, which the model reads after the first; None if there is none.
            Both texts are compared for duplicates. If a pair is too long, the longer text is cut
            off first.
        label: column of the label.
        labels: names of all labels, in order. If None: the class names of the data set on the
            Hugging Face Hub, or else the labels of the training split, sorted: first numbers by
            value, then other names alphabetically. If `labels` is set, a whole number in the data
            that is not one of the names is an index into `labels`, from 0. Numbers of the same
            value (`0`, `0.0`) are one label; names that differ in case are different labels.
        quoting: `csv` if quotation marks can enclose a cell, `none` if they are regular characters;
            None detects this in TSV files, and means `csv` for CSV files.
    """

    text: str = "text"
    pair: str | None = None
    label: str = "label"
    labels: list[str] | None = None
    quoting: Literal["csv", "none"] | None = None

    fields: tuple[str, ...] = field(default=("tokens", "label"), init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.configured_labels = self.labels
        if self.pair is not None:
            self.fields = ("tokens", "types", "label")

    def validate(self, checks: Checks) -> None:
        check_label_names(checks, self.labels)
        super().validate(checks)

    def columns(self) -> dict[str, str | None]:
        return {"text": self.text, "pair": self.pair, "label": self.label}

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"labels": self.configured_labels}

    @property
    def stated_labels(self) -> list[str] | None:
        return self.configured_labels or (None if self.hub is None else self.hub.names(self.label))

    def texts(self, row: Row) -> list[str]:
        texts = [read_text(row, name) for name in (self.text, self.pair) if name is not None]
        return texts if texts[0] else []

    def labels_of(self, row: Row) -> list[str]:
        value = row.values[self.label]
        where = f"{row.where}, column {self.label}"
        name = parse_label(value, where)
        configured = self.configured_labels
        if configured is not None and class_key(name) not in class_numbers(configured):
            number = class_key(name)
            if number.isdecimal():
                if int(number) >= len(configured):
                    expected = "one of the names in data.labels, or an index from 0 to "
                    expected += str(len(configured) - 1)
                    raise RequestError(Problem(where, expected, value))
                return [configured[int(number)]]
        return [name]

    @property
    def second_column(self) -> str | None:
        return self.pair

    @property
    def text_column(self) -> str:
        return self.text

    def rows_of_texts(
        self, texts: Sequence[str | list[str]], pair: str | None, labels: Sequence[str]
    ) -> list[Row]:
        values = {self.label: labels[0], **pair_values(self.pair, pair)}
        return [Row("", {**values, self.text: join_words(text)}) for text in texts]

    def inspection(self) -> Inspection:
        return LabelInspection(self.label)

    def encoded(
        self, rows: Sequence[Row], tokenizer: Tokenizer, labels: Sequence[str]
    ) -> list[Encoded]:
        texts = [self.texts(row) for row in rows]
        pairs: Any = [tuple(each) if self.pair else each[0] for each in texts]
        numbers = class_numbers(labels)
        result = []
        encodings = encode(pairs, tokenizer, self.sequence_length)
        for row, pieces in zip(rows, encodings, strict=True):
            label = [numbers[class_key(self.labels_of(row)[0])]]
            used, truncated = self.pieces_of(pieces)
            fields = [
                {"tokens": piece.ids, "types": piece.type_ids, "label": label} for piece in used
            ]
            result.append(Encoded(fields, truncated))
        return result
