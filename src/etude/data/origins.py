"""Origins of training examples: document spans, rows, or numbers of synthetic examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.data.passages import cut
from etude.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class DocumentSpan:
    """A document, or a span of a document, that an example contains.

    Attributes:
        document: number of the document in the training split, from 0. A row or a synthetic example
            counts as a document.
        first, end: token positions in the document: the span's first token, and the token after its
            last; None if the data is not continuous text.
        example: for a row, the number of one of its examples, counted over the whole split; None
            means any of its examples.
    """

    document: int
    first: int | None = None
    end: int | None = None
    example: int | None = None


@dataclass(frozen=True)
class SpanRead:
    """Use of a document span in training, by one example of an optimizer step.

    Attributes:
        step: number of the step, from 0.
        example: number of the example within the step, from 0.
        place: the document span.
        whole: whether the example contains the whole span; if false, it contains a part.
    """

    step: int
    example: int
    place: DocumentSpan
    whole: bool = True


def find_document_spans(ends: NDArray[np.int64], first: int, end: int) -> list[DocumentSpan]:
    """Returns the document spans in a range of a split's tokens, which is divided at document ends.

    Args:
        ends: position in the split after the last token of each document. An end-of-text token
            before a document belongs to that document.
        first, end: token positions in the split: the first token of the range, and the token after
            its last.
    """
    places = []
    document = int(np.searchsorted(ends, first, side="right"))
    while first < end:
        start = int(ends[document - 1]) if document else 0
        stop = min(end, int(ends[document]))
        if first < stop:  # skip documents without tokens
            places.append(DocumentSpan(document, first - start, stop - start))
        first, document = stop, document + 1
    return places


def find_occurrences(
    document: str, text: str, tokenizer: Tokenizer
) -> tuple[list[tuple[int, int]], int]:
    """Returns the token spans in which `text` occurs in a document, and the document's length.

    A span contains every token that represents a part of the occurrence, so it may begin before the
    text or end after it. Occurrences may overlap.

    Args:
        document: text of the document.
        text: the text to find.
        tokenizer: tokenizer that gives the tokens.

    Returns:
        The spans as pairs (first, end) of token positions in the document, where `end` is the
        position after the last token, and the number of tokens of the document. Special tokens are
        not counted. The list of spans is empty if the text does not occur.
    """
    offsets: list[tuple[int, int]] = []
    characters = 0
    for passage in cut([document]):
        encoding: Any = tokenizer.backend.encode(passage, add_special_tokens=False)
        offsets += [(first + characters, end + characters) for first, end in encoding.offsets]
        characters += len(passage)
    spans = []
    starts, ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    position = document.find(text)
    while position >= 0:
        first = int(np.searchsorted(ends, position, side="right"))
        end = int(np.searchsorted(starts, position + len(text)))
        if first < end:
            spans.append((first, end))
        position = document.find(text, position + 1)
    return spans, len(offsets)
