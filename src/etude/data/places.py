"""Where examples come from: documents, rows, or numbers of a rule's examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.data.passages import cut
from etude.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Place:
    """A document, or a stretch of it, that an example holds.

    Attributes:
        document: its number in the training split, from 0: of a document, a row, or an example that
            a rule makes.
        first, end: the stretch, in the document's tokens; None where it is no stretch of running
            text.
        example: of a row the number of one of its examples, among all of the split; None is any.
    """

    document: int
    first: int | None = None
    end: int | None = None
    example: int | None = None


@dataclass(frozen=True)
class Reading:
    """An optimizer step that reads a place.

    Attributes:
        step: its number, from 0.
        example: the number of the example that holds it, in the step, from 0.
        place: what is read.
        whole: whether all of it is in this example.
    """

    step: int
    example: int
    place: Place
    whole: bool = True


def stretches(ends: NDArray[np.int64], first: int, end: int) -> list[Place]:
    """The documents that a stretch of a text's tokens goes through.

    Args:
        ends: where each document ends.
        first, end: the stretch.
    """
    found = []
    document = int(np.searchsorted(ends, first, side="right"))
    while first < end:
        start = int(ends[document - 1]) if document else 0
        stop = min(end, int(ends[document]))
        if first < stop:  # a document without tokens is in nothing
            found.append(Place(document, first - start, stop - start))
        first, document = stop, document + 1
    return found


def occurrences(
    document: str, text: str, tokenizer: Tokenizer
) -> tuple[list[tuple[int, int]], int]:
    """Where a text stands in a document: the first of its tokens, and the end of the last; and how
    many tokens the document has.
    """
    offsets: list[tuple[int, int]] = []
    characters = 0
    for passage in cut([document]):
        encoding: Any = tokenizer.backend.encode(passage, add_special_tokens=False)
        offsets += [(first + characters, end + characters) for first, end in encoding.offsets]
        characters += len(passage)
    found = []
    starts, ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    at = document.find(text)
    while at >= 0:
        first = int(np.searchsorted(ends, at, side="right"))
        end = int(np.searchsorted(starts, at + len(text)))
        if first < end:
            found.append((first, end))
        at = document.find(text, at + 1)
    return found, len(offsets)
