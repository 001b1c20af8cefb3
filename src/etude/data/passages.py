"""Passages: pieces of long texts that, tokenized separately, give the tokens of the whole text.

A document can be larger than memory, so it is processed as passages. A passage ends where a space
or a newline follows a character that isn't whitespace, or where Chinese or Japanese punctuation
follows a letter. At these positions GPT-2's pre-tokenizer always begins a new piece: its pattern
matches whitespace only at the start of a piece, looks ahead no further than the end of a run of
whitespace, and puts letters and punctuation in different pieces. Byte-pair encoding merges tokens
only within a piece. So the tokens are exactly those of the uncut text. For character and byte
tokenizers, any position is suitable.

A text without such a position is cut at a maximum size, so that memory is bounded; a few tokens
next to the cut may then differ from those of the uncut text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

PASSAGE = 1 << 17  # characters; small enough that a batch has a passage for each thread
LONGEST = 2  # times the size: maximum length of a passage

# The character first, then a lookbehind: `re` is fast at finding one of a few characters.
BREAK = re.compile(r"[ \n。，、！？；：](?:(?<=\S[ \n])|(?<=[^\W\d_][。，、！？；：]))")


def cut(chunks: Iterable[str], size: int = PASSAGE, limit: int | None = None) -> Iterator[str]:
    """Yields the text of `chunks` as passages of `size` characters or slightly more.

    Args:
        chunks: a text in pieces of any length, with any boundaries.
        size: number of characters after which a passage is cut at the first suitable position.
        limit: maximum number of characters, after which a passage is cut at any position; None for
            twice `size`.
    """
    limit = LONGEST * size if limit is None else limit
    rest, searched = "", size
    for chunk in chunks:
        rest += chunk
        first = 0
        while True:
            match = BREAK.search(rest, max(first + size, searched), first + limit)
            if match is None and len(rest) - first < limit:
                break
            end = match.start() if match else first + limit
            yield rest[first:end]
            first, searched = end, 0
        rest = rest[first:]
        searched = max(size, len(rest))
    if rest:
        yield rest


def is_clean_cut(before: str, after: str) -> bool:
    """Returns whether a cut between the texts `before` and `after` leaves all tokens unchanged."""
    return BREAK.match(before[-1:] + after[:1], 1) is not None
