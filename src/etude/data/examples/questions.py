"""Data of questions about contexts that contain the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

import tokenizers

from etude.data.evaluation_data import Evaluated
from etude.data.examples.encoding import encode_windows
from etude.data.examples.source import Encoded, Inspection, Row, Split, join_words
from etude.data.examples.tables import TableData, pair_values
from etude.data.rows import check_surrogates
from etude.data.tokenizer import Tokenizer
from etude.errors import Checks, Problem, RequestError

SPAN_LABELS = ("start", "end")
"""Names of the two logits at each position."""


class Answer(NamedTuple):
    """Answer to a question: a part of the context, which is a text.

    Attributes:
        text: text of the answer.
        start: index of its first character in the context.
    """

    text: str
    start: int


@dataclass(kw_only=True, eq=False)
class Questions(TableData):
    """Data of rows with a question, a context, and answers in the context (SQuAD: Rajpurkar et al.
    2016, arXiv:1606.05250; with unanswerable questions: Rajpurkar et al. 2018, arXiv:1806.03822).

    A context that is too long is split into overlapping windows. Windows without the answer are
    treated as unanswerable.

    Args:
        path, validation, test: see `TableData`. Files are JSON or Parquet.
        tokenizer, sequence_length, batch, fraction, bucket_steps, workers: see `ExampleData`.
        duplicates: `warn`, `drop` or `refuse` a row whose question and context are in two splits;
            see `ExampleData` for the meaning.
        too_long: `chunk` splits a context that is too long; `refuse` raises an error.
        question: column of the question.
        context: column of the text that contains the answers.
        answers: column of the answers: an object with two lists, `text` and `answer_start`
            (character indices), as in SQuAD on the Hugging Face Hub; or a list of objects with
            `text` and `answer_start`. The first answer is the target; a row without answers is
            unanswerable.
        stride: number of tokens that consecutive windows of a context share.
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
        expected = f"a non-negative number of tokens below sequence_length = {self.sequence_length}"
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
        texts = [_text(row, name) for name in (self.question, self.context)]
        return texts if all(each.strip() for each in texts) else []

    def read_context(self, row: Row) -> str:
        """Returns the context of a row, unchanged.

        Spaces and newlines are not normalised, because the positions of answers are character
        indices.
        """
        return _text(row, self.context)

    def read_answers(self, row: Row) -> list[Answer]:
        """Returns the answers of a row, in order.

        Raises:
            RequestError: the answers do not have the structure that `Questions` describes, or an
                answer is not at its position in the context.
        """
        return parse_answers(row, self.answers, self.read_context(row))

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
        evaluated = super().evaluated(split)

        @cache
        def contents() -> Mapping[int, Row]:
            numbers = set(evaluated.row_of.tolist())
            return {n: row for n, row in enumerate(self.rows(split)) if n in numbers}

        evaluated.contents = contents
        return evaluated

    def encoded(
        self, rows: Sequence[Row], tokenizer: Tokenizer, labels: Sequence[str]
    ) -> list[Encoded]:
        pairs = [(_text(row, self.question), self.read_context(row)) for row in rows]
        encodings = encode_windows(
            pairs, tokenizer, self.sequence_length, self.stride, [row.where for row in rows]
        )
        return [
            Encoded([_fields(piece, self.read_answers(row)[:1]) for piece in pieces])
            for row, pieces in zip(rows, encodings, strict=True)
        ]


def _fields(piece: tokenizers.Encoding, answers: Sequence[Answer]) -> dict[str, list[int]]:
    """Returns the fields of a window, which contains a question and a part of its context.

    Args:
        piece: encoding of the window.
        answers: a list with the first answer to the question; empty if there is no answer.

    Returns:
        A dict with the window's `tokens`; `types`, the token type ids; `begins` and `ends`, the
        indices in the context of each token's first character and of the character after its last,
        or -1 for tokens outside the context; and `span`, the indices of the first and the last
        token of the answer, or [0, 0] if the window does not contain the complete answer.
    """
    mask = [sequence == 1 for sequence in piece.sequence_ids]
    begins = [
        start if inside else -1 for inside, (start, _) in zip(mask, piece.offsets, strict=True)
    ]
    ends = [end if inside else -1 for inside, (_, end) in zip(mask, piece.offsets, strict=True)]
    span = [0, 0]
    for text, start in answers:
        stop = start + len(text)
        first = [n for n, inside in enumerate(mask) if inside and begins[n] <= start < ends[n]]
        last = [n for n, inside in enumerate(mask) if inside and begins[n] < stop <= ends[n]]
        if first and last:
            span = [first[0], last[-1]]
    return {
        "tokens": piece.ids, "types": piece.type_ids, "begins": begins, "ends": ends, "span": span,
    }  # fmt: skip


class _AnswerInspection(Inspection):
    """Inspection of answers: checks their positions and counts the questions without answers.

    `row` raises an error as `Questions.read_answers` does. `notes` returns a line with the number
    of questions without answers, or no line if all questions have answers.
    """

    def __init__(self, data: Questions) -> None:
        self._data = data
        self._rows = self._without = 0

    def row(self, row: Row) -> None:
        self._rows += 1
        self._without += not self._data.read_answers(row)

    def notes(self, labels: Sequence[str]) -> list[str]:
        if not self._without:
            return []
        count = f"{self._without:,} of {self._rows:,} questions have no answer"
        hint = "to let the model predict that a question has no answer, set task.no_answer=true"
        return [f"{count}; {hint}"]


def parse_answers(row: Row, column: str, context: str) -> list[Answer]:
    """Returns the answers in a column of a row.

    Args:
        context: the text that contains the answers.

    Raises:
        RequestError: as for `Questions.read_answers`.
    """
    value, where = row.values[column], f"{row.where}, column {column}"
    expected = (
        "an object whose keys text and answer_start contain lists of the same length, or a list of "
    )
    expected += "objects with these two keys"
    if isinstance(value, Mapping) and {"text", "answer_start"} <= value.keys():
        texts, starts = value["text"], value["answer_start"]
        are_lists = (
            isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)
        )
        pairs = list(zip(texts, starts, strict=True)) if are_lists else None
    elif isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        pairs = [(each.get("text"), each.get("answer_start")) for each in value]
    else:
        pairs = None
    if pairs is None:
        raise RequestError(Problem(where, expected, value))
    answers = []
    for text, start in pairs:
        is_position = isinstance(start, int) and not isinstance(start, bool) and start >= 0
        if not isinstance(text, str) or not text or not is_position:
            expected = "a non-empty text, and an answer_start that is a whole number of at least 0"
            raise RequestError(Problem(where, expected, {"text": text, "answer_start": start}))
        if context[start : start + len(text)] != text:
            actual = context[start : start + len(text)]
            expected = "the start of the answer in the context as answer_start"
            hint = f"the context has {actual!r} at character {start}"
            value = {"text": text, "answer_start": start}
            raise RequestError(Problem(where, expected, value, hint))
        answers.append(Answer(text, start))
    return answers


def _text(row: Row, column: str) -> str:
    value = row.values[column]
    if not isinstance(value, str):
        raise RequestError(Problem(f"{row.where}, column {column}", "text", value))
    check_surrogates(f"{row.where}, column {column}", value)
    return value
