"""Questions about texts in which the answers stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

import tokenizers

from etude.data.evaluated import Evaluated
from etude.data.examples.encoding import encode_windows
from etude.data.examples.source import Encoded, Inspection, Row, Split, join_words
from etude.data.examples.tables import TableData, pair_values
from etude.data.rows import check_surrogates
from etude.data.tokenizer import Tokenizer
from etude.errors import Checks, Problem, RequestError

SPAN_LABELS = ("start", "end")
"""What the two logits at each position are of."""


class Answer(NamedTuple):
    """A part of a context.

    Attributes:
        text: its words.
        start: the character that it begins at.
    """

    text: str
    start: int


@dataclass(kw_only=True, eq=False)
class Questions(TableData):
    """Rows with a question, a context, and answers that stand in the context (SQuAD, Rajpurkar et
    al. 2016, arXiv:1606.05250; with questions that have none, 2018, arXiv:1806.03822).

    A context that is too long is read in windows that overlap; one without the answer has none.

    Args:
        path, validation, test: see `TableData`. Rows of JSON or Parquet.
        tokenizer, sequence_length, batch, duplicates, fraction, bucket_steps, workers: see
            `ExampleData`.
        question, context: the columns of the texts.
        answers: that of the answers: an object with two lists, `text` and `answer_start`, the
            characters at which they begin, as in SQuAD on the hub; or a list of objects with a
            `text` and an `answer_start`. The first is trained on; without any, the context has no
            answer.
        stride: tokens that a window of a context shares with the one before.
    """

    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    stride: int = 128
    too_long: Literal["chunk", "refuse"] = "chunk"
    pack: bool = field(default=False, init=False)

    fields: tuple[str, ...] = field(
        default=("tokens", "types", "begins", "ends", "span"), init=False
    )
    states_classes: ClassVar[bool] = False
    lists: ClassVar[bool] = True
    stated_labels: ClassVar[list[str]] = [*SPAN_LABELS]

    def validate(self, checks: Checks) -> None:
        fits = 0 <= self.stride < max(self.sequence_length, 1)
        expected = f"a number from 0 on, below sequence_length = {self.sequence_length}"
        checks.that(fits, "stride", self.stride, expected)
        super().validate(checks)

    def columns(self) -> dict[str, str | None]:
        return {"question": self.question, "context": self.context, "answers": self.answers}

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"stride": self.stride}

    @property
    def second_column(self) -> str | None:
        return self.context

    @property
    def text_column(self) -> str:
        return self.question

    def texts(self, row: Row) -> list[str]:
        found = [_text(row, name) for name in (self.question, self.context)]
        return found if all(each.strip() for each in found) else []

    def context_of(self, row: Row) -> str:
        """The text that answers stand in, to the letter: characters are counted in it."""
        return _text(row, self.context)

    def answers_of(self, row: Row) -> list[Answer]:
        """The answers, in the order of the row.

        Raises:
            RequestError: they are of another form, or do not stand where they say; says where.
        """
        return parse_answers(row, self.answers, self.context_of(row))

    def inspection(self) -> Inspection:
        return _AnswerInspection(self)

    def rows_of_texts(
        self, texts: Sequence[str | list[str]], pair: str | None, labels: Sequence[str]
    ) -> list[Row]:
        context = pair_values(self.context, pair)
        return [
            Row("", {**context, self.question: join_words(text), self.answers: []})
            for text in texts
        ]

    def evaluated(self, split: Split) -> Evaluated:
        found = super().evaluated(split)

        @cache
        def contents() -> Mapping[int, Row]:
            kept = set(found.row_of.tolist())
            return {n: row for n, row in enumerate(self.rows(split)) if n in kept}

        found.contents = contents
        return found

    def encoded(
        self, rows: Sequence[Row], tokenizer: Tokenizer, labels: Sequence[str]
    ) -> list[Encoded]:
        pairs = [(_text(row, self.question), self.context_of(row)) for row in rows]
        found = encode_windows(
            pairs, tokenizer, self.sequence_length, self.stride, [row.where for row in rows]
        )
        return [
            Encoded([_fields(piece, self.answers_of(row)[:1]) for piece in pieces])
            for row, pieces in zip(rows, found, strict=True)
        ]


def _fields(piece: tokenizers.Encoding, answers: Sequence[Answer]) -> dict[str, list[int]]:
    """Of a window the characters of the context that each token spells, -1 for other tokens, and
    the tokens that begin and end the answer, or twice the first, which stands for none.
    """
    inside = [sequence == 1 for sequence in piece.sequence_ids]
    begins = [start if here else -1 for here, (start, _) in zip(inside, piece.offsets, strict=True)]
    ends = [end if here else -1 for here, (_, end) in zip(inside, piece.offsets, strict=True)]
    span = [0, 0]
    for text, start in answers:
        stop = start + len(text)
        first = [n for n, here in enumerate(inside) if here and begins[n] <= start < ends[n]]
        last = [n for n, here in enumerate(inside) if here and begins[n] < stop <= ends[n]]
        if first and last:
            span = [first[0], last[-1]]
    return {
        "tokens": piece.ids, "types": piece.type_ids, "begins": begins, "ends": ends, "span": span,
    }  # fmt: skip


class _AnswerInspection(Inspection):
    """Reports answers that are not where they say, and counts questions that have none."""

    def __init__(self, data: Questions) -> None:
        self._data = data
        self._rows = self._without = 0

    def row(self, row: Row) -> None:
        self._rows += 1
        self._without += not self._data.answers_of(row)

    def notes(self, labels: Sequence[str]) -> list[str]:
        if not self._without:
            return []
        told = f"{self._without:,} of {self._rows:,} questions have no answer"
        return [f"{told}; task.no_answer=true lets the model say so"]


def parse_answers(row: Row, column: str, context: str) -> list[Answer]:
    """The answers in a column.

    Raises:
        RequestError: as for `Questions.answers_of`.
    """
    value, where = row.values[column], f"{row.where}, column {column}"
    expected = "an object with lists text and answer_start, or a list of objects with these"
    if isinstance(value, Mapping) and {"text", "answer_start"} <= value.keys():
        texts, starts = value["text"], value["answer_start"]
        lists = isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)
        pairs = list(zip(texts, starts, strict=True)) if lists else None
    elif isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        pairs = [(each.get("text"), each.get("answer_start")) for each in value]
    else:
        pairs = None
    if pairs is None:
        raise RequestError(Problem(where, expected, value))
    found = []
    for text, start in pairs:
        whole = isinstance(start, int) and not isinstance(start, bool) and start >= 0
        if not isinstance(text, str) or not text or not whole:
            raise RequestError(Problem(where, expected, {"text": text, "answer_start": start}))
        if context[start : start + len(text)] != text:
            there = context[start : start + len(text)]
            expected = f"{text!r} at character {start} of the context"
            raise RequestError(Problem(where, expected, there))
        found.append(Answer(text, start))
    return found


def _text(row: Row, column: str) -> str:
    value = row.values[column]
    if not isinstance(value, str):
        raise RequestError(Problem(f"{row.where}, column {column}", "text", value))
    check_surrogates(f"{row.where}, column {column}", value)
    return value
