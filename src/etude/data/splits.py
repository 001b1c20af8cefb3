"""Splits of a corpus, the passages of a split, and the metadata of a prepared split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val")
"""The splits that every corpus has; some also have a test split."""

Document = tuple[str, str]
"""A readable description of where a document comes from, and its text."""

Passage = tuple[int, str]
"""The number of a document, and a piece of its text (see `etude.data.passages`)."""

Part = Callable[[Split], Iterator[Passage]]
"""Function that yields the passages of a split in order: all, or those of a mixture's source."""


@dataclass(frozen=True)
class SectionMeta:
    """Metadata of a section: the part of a split's file with the text of one mixture source.

    Attributes:
        start: position of the section's first id in the file.
        tokens, bytes, first_token_bytes: as in `TextSplitMeta`, for the section.
    """

    start: int
    tokens: int
    bytes: int
    first_token_bytes: int


@dataclass(frozen=True)
class TextSplitMeta:
    """Metadata of a split's file of token ids.

    Attributes:
        tokens: number of ids in the file, end-of-text ids included.
        bytes: number of UTF-8 bytes of the text; an end-of-text id has none.
        characters: number of code points of the text.
        documents: number of documents; a document of which the split contains a part counts, too.
        first_token_bytes: number of UTF-8 bytes that the first token represents; for a mixture, the
            sum over its sources.
        unknown: number of characters or words that are unknown to the tokenizer or have no token.
        most_unknown: the most frequent of these characters or words, with their counts. Text that
            is encoded as the unknown token is counted only in the first 100 passages in which the
            token occurs; a text of a few megabytes has no more passages than that.
        sha256: hash of the file.
        lossless: whether the ids decode to the text, except for unknown characters.
        sections: for a mixture, the part of the file with each source's text, by the source's name;
            empty for other data.
    """

    tokens: int
    bytes: int
    characters: int
    documents: int
    first_token_bytes: int
    unknown: int
    most_unknown: dict[str, int]
    sha256: str
    lossless: bool = True
    sections: dict[str, SectionMeta] = field(default_factory=dict)

    @classmethod
    def of(cls, values: dict[str, Any]) -> TextSplitMeta:
        """Creates the metadata from the JSON values that `meta.json` contains."""
        sections = values.pop("sections", {})
        return cls(**values, sections={name: SectionMeta(**s) for name, s in sections.items()})

    @property
    def lists(self) -> int:
        """Number of lists in each column: one per document."""
        return self.documents
