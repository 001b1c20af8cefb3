"""Long texts in pieces that are tokenised apart and give the tokens of the whole.

A document can be larger than memory, so it travels as passages. A passage ends where a space
or a newline follows a character that isn't white space. There GPT-2's splitting (its pattern takes
white space at the start of a piece only, and looks ahead no further than the end of a run of white
space) always begins a new piece, and no merge of byte-pair encoding crosses pieces; so the
tokens are exactly those of the uncut text. For characters and bytes any place would do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

PASSAGE = 1 << 17  # characters; enough passages in a batch to keep the tokenizer's threads busy

_BREAK = re.compile(r"(?<=\S)[ \n]")


def cut(chunks: Iterable[str], size: int = PASSAGE) -> Iterator[str]:
    """The text of `chunks` as passages of `size` characters or somewhat more.

    A text without a place to cut is one passage, whatever its length.
    """
    rest, searched = "", size
    for chunk in chunks:
        rest += chunk
        first = 0
        while match := _BREAK.search(rest, max(first + size, searched)):
            yield rest[first : match.start()]
            first = match.start()
            searched = 0
        rest = rest[first:]
        searched = max(size, len(rest))
    if rest:
        yield rest
