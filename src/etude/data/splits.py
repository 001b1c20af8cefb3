"""What a corpus gives and what is said of it once it is written: splits, passages, counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val")
"""Those that every corpus has; some have one for testing."""

Document = tuple[str, str]
"""Where a document comes from, for people, and its text."""

Passage = tuple[int, str]
"""The number of a document, and a piece of its text (see `etude.data.passages`)."""

Part = Callable[[Split], Iterator[Passage]]
"""The text of a split, or of what one source of a mixture gives to it, in order."""


@dataclass(frozen=True)
class SectionMeta:
    """What a part of a split's file holds: the text of one source of a mixture.

    Attributes:
        start: the place of its first id.
        tokens, bytes, first_token_bytes: as for a split.
    """

    start: int
    tokens: int
    bytes: int
    first_token_bytes: int


@dataclass(frozen=True)
class SplitMeta:
    """What a split's file holds.

    Attributes:
        tokens: ids in the file, end-of-text ids included.
        bytes: UTF-8 bytes of the text; an end-of-text id has none.
        characters: code points of the text.
        documents: how many there are, a part of one counted as one.
        first_token_bytes: UTF-8 bytes that the first token stands for.
        unknown: how many characters or words the tokenizer doesn't know, or has no token for.
        most_unknown: the most frequent of these with their counts, in the first passages that have
            any; in a text of a few megabytes, in all of it.
        sha256: of the file.
        lossless: whether the ids spell the text, unknown characters apart.
        sections: where in the file each source of a mixture lies.
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
    def of(cls, values: dict[str, Any]) -> SplitMeta:
        """From plain data, as `meta.json` holds it."""
        sections = values.pop("sections", {})
        return cls(**values, sections={name: SectionMeta(**s) for name, s in sections.items()})

    @property
    def lists(self) -> int:
        """Of each column."""
        return self.documents
