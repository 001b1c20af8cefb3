"""Long texts in pieces that are tokenised apart and give the tokens of the whole.

A document can be larger than memory, so it travels as passages. A passage ends where a space
or a newline follows a character that isn't white space, or where Chinese or Japanese punctuation
follows a letter. There GPT-2's splitting (its pattern takes white space at the start of a piece
only, looks ahead no further than the end of a run of white space, and puts letters and
punctuation in different pieces) always begins a new piece, and no merge of byte-pair encoding
crosses pieces; so the tokens are exactly those of the uncut text. For characters and bytes any
place would do.

A text without such a place is cut all the same, at a stated size: memory stays bounded, and a few
tokens beside the cut may differ from those of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

PASSAGE = 1 << 17  # characters; enough passages in a batch to keep the tokenizer's threads busy
LONGEST = 2  # times the size: where a text without a place to cut is cut

# A character, then what is before it: `re` is fast at finding one of a few characters.
BREAK = re.compile(r"[ \n。，、！？；：](?:(?<=\S[ \n])|(?<=[^\W\d_][。，、！？；：]))")


def cut(chunks: Iterable[str], size: int = PASSAGE, limit: int | None = None) -> Iterator[str]:
    """The text of `chunks` as passages of `size` characters or somewhat more.

    Args:
        chunks: a text in pieces of any length; where they end doesn't matter.
        size: a passage is cut at the first place from here on.
        limit: the longest passage, cut there if there is no place before; twice the size if None.
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


def parted_well(before: str, after: str) -> bool:
    """Whether the text `before` + `after` has a place to cut between the two."""
    return BREAK.match(before[-1:] + after[:1], 1) is not None
