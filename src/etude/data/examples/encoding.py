"""Encoding of texts to tokens; a text that is too long is split into several pieces."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import tokenizers

from etude.console import NOTICES
from etude.data.panics import no_panic
from etude.data.tokenizer import Tokenizer
from etude.errors import Problem, RequestError

log = logging.getLogger(NOTICES)


def warn_truncated(texts: int, longest: int) -> None:
    """Logs a warning that texts were truncated, unless their number is 0.

    Args:
        texts: number of truncated texts.
        longest: maximum number of tokens of a text.
    """
    if texts:
        which = "1 text is" if texts == 1 else f"{texts:,} texts are"
        message = "%s longer than data.sequence_length = %d tokens; the end is cut off"
        log.warning(message, which, longest)


def encode(
    texts: Sequence[str] | Sequence[tuple[str, str]] | Sequence[Sequence[str]],
    tokenizer: Tokenizer,
    longest: int,
    *,
    framed: bool = True,
    words: bool = False,
) -> list[list[tokenizers.Encoding]]:
    """Encodes each text as one piece, or as several pieces if it has more than `longest` tokens.

    The pieces of a single text follow each other without overlap.

    If a pair is too long, tokens are cut off one by one, each from the text that is longer at that
    time, until the pair fits. Each text is then divided into parts of its shortened length; a text
    that was not shortened is one part. The first piece contains the first part of both texts, and
    the further pieces contain all other combinations of parts. So tokens can occur in several
    pieces.

    Args:
        texts: texts, pairs of texts, or lists of words.
        longest: maximum number of tokens of a piece, including special tokens.
        framed: whether special tokens are added around each piece.
        words: whether each text is a list of words.

    Returns:
        For each text, the list of its pieces.

    Raises:
        RequestError: `longest` leaves no room for a token of the text besides the special tokens.
    """
    backend = tokenizer.for_text()
    pair = bool(texts) and isinstance(texts[0], tuple) and not words
    capacity = longest - (backend.num_special_tokens_to_add(pair) if framed else 0)
    if capacity < 1:
        expected = f"more than {longest - capacity} (the number of special tokens around a text)"
        raise RequestError(Problem("data.sequence_length", expected, longest))
    backend.enable_truncation(longest, strategy="longest_first")
    with no_panic(tokenizer.file):
        if words:  # needs the slower method, which keeps `word_ids`
            lists = [list(each) for each in texts]
            encodings = backend.encode_batch(lists, is_pretokenized=True, add_special_tokens=framed)
        else:
            encodings = backend.encode_batch_fast(list(texts), add_special_tokens=framed)
    return [[encoding, *encoding.overflowing] for encoding in encodings]


def encode_windows(
    pairs: Sequence[tuple[str, str]],
    tokenizer: Tokenizer,
    longest: int,
    stride: int,
    where: Sequence[str],
) -> list[list[tokenizers.Encoding]]:
    """Encodes each pair of texts as one or several windows, and returns a list of windows per pair.

    A window contains the whole first text and a part of the second text. A pair has one window if
    it has at most `longest` tokens.

    Args:
        pairs: pairs of texts, such as a question and its context.
        longest: maximum number of tokens per window, including the first text and the special
            tokens.
        stride: number of tokens that consecutive windows share.
        where: position of each pair, for error messages.

    Raises:
        RequestError: a first text is so long that no more than `stride` tokens of the second text
            fit.
    """
    backend = tokenizer.for_text()
    with no_panic(tokenizer.file):
        firsts = backend.encode_batch_fast([first for first, _ in pairs], add_special_tokens=False)
    capacity = longest - backend.num_special_tokens_to_add(True) - stride
    if problems := [
        Problem(
            position,
            f"a question of fewer than {capacity} tokens",
            f"{len(first.ids)} tokens",
            f"the limit is data.sequence_length={longest} minus data.stride={stride} minus the "
            "special tokens; increase data.sequence_length",
        )
        for position, first in zip(where, firsts, strict=True)
        if len(first.ids) >= capacity
    ]:
        raise RequestError(problems[:3])
    backend.enable_truncation(longest, stride=stride, strategy="only_second")
    with no_panic(tokenizer.file):
        encodings = backend.encode_batch(list(pairs))
    return [[encoding, *encoding.overflowing] for encoding in encodings]
