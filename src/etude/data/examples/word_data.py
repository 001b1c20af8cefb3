"""Data of sentences in which each word has a target."""

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
"""White square, which replaces a word for which the tokenizer returns no tokens."""


@dataclass(kw_only=True, eq=False)
class WordData(ExampleData):
    """Base class of data whose rows have `words`, and one target per word.

    Attributes:
        word_field: name of the field with the targets; the target of a word is at its first token.
        fill_value: value of the field at all other tokens.
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
        """Returns a list with one number for each word of a row: the target of the word.

        Args:
            labels: names of all labels; the number of a label is its index in this list.
        """
        raise NotImplementedError

    def encoded(
        self, rows: Sequence[Row], tokenizer: Tokenizer, labels: Sequence[str]
    ) -> list[Encoded]:
        result = []
        for row, pieces in zip(rows, self._encode_words(rows, tokenizer), strict=True):
            targets = self.word_targets(row, labels)
            used, truncated = self.pieces_of(pieces)
            examples: list[dict[str, list[Any]]] = []
            last_word = -1
            for piece in used:
                values: list[Any] = []
                for word in piece.word_ids:
                    if word is None or word <= last_word:
                        values.append(self.fill_value)
                    else:
                        values.append(targets[word])
                        last_word = word
                examples.append({"tokens": piece.ids, self.word_field: values})
            result.append(Encoded(examples, truncated))
        return result

    def _encode_words(
        self, rows: Sequence[Row], tokenizer: Tokenizer
    ) -> list[list[tokenizers.Encoding]]:
        """Returns, for each row, its encoded pieces: several if the row is too long.

        Words for which the tokenizer returns no tokens, such as a zero-width space, are replaced by
        `PLACEHOLDER`, a white square, so that every word has a target.

        Raises:
            RequestError: the tokenizer returns no tokens for `PLACEHOLDER`, either.
        """
        sentences = [prepend_spaces(row.values["words"], tokenizer) for row in rows]
        encodings = encode(sentences, tokenizer, self.sequence_length, words=True)
        for index, (row, words) in enumerate(zip(rows, sentences, strict=True)):
            if not (missing := _unread_words(words, encodings[index])):
                continue
            replaced = prepend_spaces(
                [
                    PLACEHOLDER if n in missing else word
                    for n, word in enumerate(row.values["words"])
                ],
                tokenizer,
            )
            (encodings[index],) = encode([replaced], tokenizer, self.sequence_length, words=True)
            if missing := _unread_words(replaced, encodings[index]):
                word = row.values["words"][min(missing)]
                raise RequestError(Problem(row.where, "words that the tokenizer can encode", word))
        return encodings


def _unread_words(words: Sequence[str], pieces: Sequence[tokenizers.Encoding]) -> set[int]:
    """Returns the indices of the words that have no token in any of the encoded pieces."""
    return set(range(len(words))) - {word for piece in pieces for word in piece.word_ids}


def prepend_spaces(words: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Returns the words in the form in which the tokenizer encodes them.

    For a tokenizer that preserves spaces, each word except the first begins with a space. For
    any other tokenizer, the words are unchanged.
    """
    if tokenizer.rewrites:
        return list(words)
    return [word if index == 0 else f" {word}" for index, word in enumerate(words)]


def split_words(texts: Sequence[str | list[str]], pair: str | None) -> list[list[str]]:
    """Splits each text into words; a text that is already a list of words is returned unchanged.

    Words are separated by spaces, tabs and line ends.

    Args:
        pair: a second text, which data of words can't have; must be None.

    Raises:
        RequestError: `pair` is not None.
    """
    pair_values(None, pair)
    return [WORD.findall(text) if isinstance(text, str) else text for text in texts]
