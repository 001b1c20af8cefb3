"""Data of passages of the State of the Union addresses, each with its speaker's party."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from etude.data.examples.base import ExampleData
from etude.data.examples.encoding import encode
from etude.data.examples.source import Encoded, Row, Split
from etude.data.sotu import Sotu, Speech
from etude.data.text import Batch
from etude.data.tokenizer import Tokenizer
from etude.errors import Checks, Problem, RequestError, nearest


@dataclass(kw_only=True, eq=False)
class SotuParties(ExampleData):
    """Passages of about `words` words, labelled with the party of the president who spoke them.

    All speeches of a president are in one split. For each party, presidents are ordered by their
    first speech: the third, eighth, ... are for testing and the fifth, tenth, ... for validation.

    Args:
        parties: the labels: names of parties in the metadata of the package `sotu`.
            Speeches of presidents of other parties are skipped.
        first_year: speeches of earlier years are skipped.
        words: approximate number of words per passage; paragraphs are not split.
        tokenizer, sequence_length, batch, too_long, duplicates, fraction, bucket_steps, workers,
            pack: see `ExampleData`.
    """

    parties: list[str]
    first_year: int = 1860
    words: int = 150
    duplicates: Literal["warn", "drop", "refuse"] = "drop"

    fields = ("tokens", "label")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._corpus = Sotu(tokenizer=self.tokenizer, sequence_length=1, batch=Batch(examples=1))

    def validate(self, checks: Checks) -> None:
        some = len(set(self.parties)) > 1
        checks.that(some, "parties", self.parties, "at least two parties")
        checks.positive(words=self.words)
        super().validate(checks)

    @cached_property
    def speeches(self) -> list[Speech]:
        """The speeches of presidents of `parties` since `first_year`, ordered by date."""
        return [
            speech
            for speech in self._corpus.speeches
            if speech.party in self.parties and speech.year >= self.first_year
        ]

    @cached_property
    def splits(self) -> dict[str, Split]:
        """Dict from the name of each president to the split of their speeches."""
        splits: dict[str, Split] = {}
        for party in self.parties:
            names = dict.fromkeys(s.president for s in self.speeches if s.party == party)
            for number, name in enumerate(names, 1):
                splits.setdefault(name, {3: "test", 0: "val"}.get(number % 5, "train"))  # type: ignore[arg-type]
        return splits

    def rows(self, split: Split) -> Iterator[Row]:
        for speech in self.speeches:
            if self.splits[speech.president] != split:
                continue
            for number, passage in enumerate(self._passages(speech), 1):
                where = f"{speech.name}, passage {number}"
                values = {"text": passage, "party": speech.party, "president": speech.president}
                yield Row(where, values)

    def _passages(self, speech: Speech) -> Iterator[str]:
        paragraphs: list[str] = []
        for paragraph in speech.path.read_text(encoding="utf-8").split("\n"):
            if paragraph.strip():
                paragraphs.append(paragraph.strip())
            if sum(len(each.split()) for each in paragraphs) >= self.words:
                yield "\n".join(paragraphs)
                paragraphs = []
        if paragraphs:
            yield "\n".join(paragraphs)

    def texts(self, row: Row) -> list[str]:
        return [row.values["text"]]

    def labels_of(self, row: Row) -> list[str]:
        return [row.values["party"]]

    @property
    def stated_labels(self) -> list[str] | None:
        return self.parties

    def encoded(
        self, rows: Sequence[Row], tokenizer: Tokenizer, labels: Sequence[str]
    ) -> list[Encoded]:
        encodings = encode([row.values["text"] for row in rows], tokenizer, self.sequence_length)
        result = []
        for row, pieces in zip(rows, encodings, strict=True):
            label = [labels.index(row.values["party"])]
            used, truncated = self.pieces_of(pieces)
            fields = [{"tokens": piece.ids, "label": label} for piece in used]
            result.append(Encoded(fields, truncated))
        return result

    def check(self) -> None:
        self._corpus.check()
        known = {speech.party for speech in self._corpus.speeches}
        problems = [
            Problem("data.parties", "a party of the sotu corpus", party, nearest(party, known))
            for party in self.parties
            if party not in known
        ]
        if problems:
            raise RequestError(problems)

    def content_fingerprint(self) -> str:
        return self._corpus.content_fingerprint()

    def content_files(self) -> list[Path] | None:
        return self._corpus.content_files()

    def settings(self) -> dict[str, Any]:
        return {"parties": self.parties, "first_year": self.first_year, "words": self.words}
