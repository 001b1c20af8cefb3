"""Texts to tokens, in pieces where they are too long."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import tokenizers

from etude.console import NOTICES
from etude.data.panics import no_panic
from etude.data.tokenizer import Tokenizer
from etude.errors import Problem, RequestError

log = logging.getLogger(NOTICES)


def warn_of_cut(texts: int, longest: int) -> None:
    """Reports texts of which the model does not read the end."""
    if texts:
        which = "1 text is" if texts == 1 else f"{texts:,} texts are"
        message = "%s longer than data.sequence_length = %d; the rest is not read"
        log.warning(message, which, longest)


def encode(
    texts: Sequence[str] | Sequence[tuple[str, str]] | Sequence[Sequence[str]],
    tokenizer: Tokenizer,
    longest: int,
    *,
    framed: bool = True,
    words: bool = False,
) -> list[list[tokenizers.Encoding]]:
    """The encoding of each text and, where it is longer than `longest`, of its further pieces.

    Of two texts the longer loses first. The special tokens around a text count, and stand around
    each piece.

    Args:
        texts: a text, a pair of texts, or a list of words each.
        framed: whether the special tokens stand around it.
        words: whether each is a list of words.
    """
    backend = tokenizer.for_text()
    pair = bool(texts) and isinstance(texts[0], tuple) and not words
    room = longest - (backend.num_special_tokens_to_add(pair) if framed else 0)
    if room < 1:
        expected = f"more than the {longest - room} special tokens around a text"
        raise RequestError(Problem("data.sequence_length", expected, longest))
    backend.enable_truncation(longest, strategy="longest_first")
    with no_panic(tokenizer.file):
        if words:  # whose tokens are told by their word's number
            lists = [list(each) for each in texts]
            found = backend.encode_batch(lists, is_pretokenized=True, add_special_tokens=framed)
        else:
            found = backend.encode_batch_fast(list(texts), add_special_tokens=framed)
    return [[encoding, *encoding.overflowing] for encoding in found]


def encode_windows(
    pairs: Sequence[tuple[str, str]],
    tokenizer: Tokenizer,
    longest: int,
    stride: int,
    where: Sequence[str],
) -> list[list[tokenizers.Encoding]]:
    """The encodings of pairs whose second text is cut into windows, each after the whole first.

    Args:
        longest: tokens in a window, with the first text and the special tokens.
        stride: tokens that a window shares with the one before.
        where: of each pair, for messages.

    Raises:
        RequestError: a first text leaves no room for more than `stride` tokens of the second.
    """
    backend = tokenizer.for_text()
    with no_panic(tokenizer.file):
        firsts = backend.encode_batch_fast([first for first, _ in pairs], add_special_tokens=False)
    room = longest - backend.num_special_tokens_to_add(True) - stride
    if problems := [
        Problem(
            place,
            f"a question of fewer than {room} tokens",
            f"{len(first.ids)} tokens",
            f"data.sequence_length={longest} less data.stride={stride}; set a larger length",
        )
        for place, first in zip(where, firsts, strict=True)
        if len(first.ids) >= room
    ]:
        raise RequestError(problems[:3])
    backend.enable_truncation(longest, stride=stride, strategy="only_second")
    with no_panic(tokenizer.file):
        found = backend.encode_batch(list(pairs))
    return [[encoding, *encoding.overflowing] for encoding in found]
