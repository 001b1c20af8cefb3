"""Sentences of words, each with something that is said of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import tokenizers

from etude.data.examples.base import ExampleData
from etude.data.examples.encoding import encode
from etude.data.examples.source import Encoded, Row
from etude.data.examples.tables import pair_values
from etude.data.tokenizer import Tokenizer
from etude.errors import Problem, RequestError

WORD = re.compile(r"[^ \t\n\r]+")  # a no-break space belongs to its word
PLACEHOLDER = "\u25a1"
"""Stands for a word of which a tokenizer reads nothing: a white square."""


@dataclass(kw_only=True, eq=False)
class WordData(ExampleData):
    """The base: rows have `words`, and as many of what is said of them.

    Attributes:
        of_words: the field of that; it stands at the first token of each word.
        nothing: what stands at the other tokens.
    """

    too_long: Literal["truncate", "chunk", "refuse"] = "chunk"

    reads_words: ClassVar[bool] = True
    word_field: ClassVar[str]
    fill_value: ClassVar[float]

    @property
    def text_column(self) -> str:
        return "words"

    def texts(self, row: Row) -> list[str]:
        words = row.values["words"]
        return [" ".join(words)] if words else []

    def word_targets(self, row: Row, labels: Sequence[str]) -> list[Any]:
        """What is said of the words of a row, as numbers."""
        raise NotImplementedError

    def encoded(
        self, rows: Sequence[Row], tokenizer: Tokenizer, labels: Sequence[str]
    ) -> list[Encoded]:
        result = []
        for row, pieces in zip(rows, self._encode_words(rows, tokenizer), strict=True):
            said = self.word_targets(row, labels)
            taken, lost = self.pieces_of(pieces)
            examples: list[dict[str, list[Any]]] = []
            done = -1
            for piece in taken:
                marks: list[Any] = []
                for word in piece.word_ids:
                    if word is None or word <= done:
                        marks.append(self.fill_value)
                    else:
                        marks.append(said[word])
                        done = word
                examples.append({"tokens": piece.ids, self.word_field: marks})
            result.append(Encoded(examples, lost))
        return result

    def _encode_words(
        self, rows: Sequence[Row], tokenizer: Tokenizer
    ) -> list[list[tokenizers.Encoding]]:
        """The pieces of each row; a word of which the tokenizer reads nothing, as of a zero-width
        space, is read as `UNSEEN`, so that something can be said of each.
        """
        sentences = [prepend_spaces(row.values["words"], tokenizer) for row in rows]
        found = encode(sentences, tokenizer, self.sequence_length, words=True)
        for place, (row, words) in enumerate(zip(rows, sentences, strict=True)):
            if not (missing := _unread_words(words, found[place])):
                continue
            seen = prepend_spaces(
                [
                    PLACEHOLDER if n in missing else word
                    for n, word in enumerate(row.values["words"])
                ],
                tokenizer,
            )
            (found[place],) = encode([seen], tokenizer, self.sequence_length, words=True)
            if missing := _unread_words(seen, found[place]):
                word = row.values["words"][min(missing)]
                raise RequestError(Problem(row.where, "words that the tokenizer reads", word))
        return found


def _unread_words(words: Sequence[str], pieces: Sequence[tokenizers.Encoding]) -> set[int]:
    """The words that stand in none of the pieces."""
    return set(range(len(words))) - {word for piece in pieces for word in piece.word_ids}


def prepend_spaces(words: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The words as they stand in running text: after a space, where a tokenizer reads spaces."""
    if tokenizer.rewrites:
        return list(words)
    return [word if place == 0 else f" {word}" for place, word in enumerate(words)]


def split_words(texts: Sequence[str | list[str]], pair: str | None) -> list[list[str]]:
    """The words of texts, some of which may be lists of words already.

    Raises:
        RequestError: a second text is given.
    """
    pair_values(None, pair)
    return [WORD.findall(text) if isinstance(text, str) else text for text in texts]
