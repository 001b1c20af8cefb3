"""Shared functions for training tokenizers: bounded cost, interruption, and size checks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import tokenizers

from etude.data.passages import BREAK
from etude.errors import Checks

LONG_STRETCH = 512  # characters without a position to cut: longer than any word
MAX_LONG_STRETCHES = 1 << 21  # characters in total: byte-pair encoding needs about 8 us each
LOG_INTERVAL = 5.0  # seconds between progress messages
LARGEST_VOCABULARY = 1 << 20  # four times the largest in use

log = logging.getLogger("etude.data")


def learnable(texts: Iterable[str]) -> Iterator[str]:
    """Yields `texts` with long stretches cut or skipped, so that the cost of training is bounded.

    A long stretch is at least `LONG_STRETCH` characters without a space or another position to cut
    (base64, a line of one letter). It is cut into pieces of `LONG_STRETCH` characters. After
    `MAX_LONG_STRETCHES` characters of such stretches, further ones are skipped. The reason is that
    training processes each distinct word repeatedly, which is slow for words of thousands of
    characters and for millions of words that occur once.
    (SentencePiece skips every line of more than 4192 bytes.) A text without long stretches is
    unchanged.
    """
    remaining, warned = MAX_LONG_STRETCHES, False
    for text in texts:
        if not _may_have_long_stretch(text):
            yield text
            continue
        position = 0  # end of the text that was yielded or skipped
        for start, end in _stretches(text):
            if end - start < LONG_STRETCH:
                continue
            if position < start:
                yield text[position:start]
            for piece_start in range(start, min(end, start + remaining), LONG_STRETCH):
                yield text[piece_start : min(piece_start + LONG_STRETCH, end, start + remaining)]
            if end - start > remaining and not warned:
                warned = True
                log.warning(
                    "the text has stretches of at least %d characters without a space; the "
                    "tokenizer is trained only on the first %s characters of these stretches "
                    "(counted over all of them), and on all other text",
                    LONG_STRETCH,
                    f"{MAX_LONG_STRETCHES:,}",
                )
            remaining = max(remaining - (end - start), 0)
            position = end
        if position < len(text):
            yield text[position:]


def _may_have_long_stretch(text: str) -> bool:
    # A long stretch covers one of these windows, and nearly all windows have a position to cut
    # near their start: a hundred times as fast as scanning the text.
    half = LONG_STRETCH // 2
    return any(
        BREAK.search(text, start, start + half) is None
        for start in range(0, len(text) - half + 1, half)
    )


def _stretches(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for match in BREAK.finditer(text):
        yield start, match.start()
        start = match.start()
    yield start, len(text)


def learn(backend: tokenizers.Tokenizer, trainer: Any, texts: Iterable[str]) -> None:
    """Trains a tokenizer of the `tokenizers` library; Ctrl-C interrupts the training immediately.

    The library's own loop does not handle signals for minutes, so it runs in a separate thread. If
    training is interrupted after all texts were read, the thread continues until it or the process
    ends.

    Args:
        backend: the tokenizer, which is trained in place.
        trainer: trainer of the library.
        texts: the training texts.
    """
    errors: list[BaseException] = []
    interrupted, all_read = threading.Event(), threading.Event()

    def read_texts() -> Iterator[str]:
        for text in learnable(texts):
            if interrupted.is_set():
                raise InterruptedError
            yield text
        all_read.set()

    def work() -> None:
        try:
            backend.train_from_iterator(read_texts(), trainer)
        except BaseException as error:  # raised in the waiting thread; includes errors of the texts
            errors.append(error)

    worker = threading.Thread(target=work, daemon=True, name="tokenizer training")
    worker.start()
    start = time.monotonic()
    next_log = start + LOG_INTERVAL
    try:
        while worker.is_alive():
            worker.join(0.2)
            now = time.monotonic()
            if all_read.is_set() and now > next_log:
                next_log = now + LOG_INTERVAL
                log.info("training the tokenizer: %d seconds so far", now - start)
    except BaseException:
        interrupted.set()
        worker.join(1.0)  # a thread that still calls Python must not outlive the interpreter
        raise
    if errors:
        raise errors[0]


def check_vocabulary(size: int, least: int, needed: str) -> None:
    """Checks that a vocabulary size is not too small for the tokenizer or too large for memory.

    Args:
        size: the vocabulary size.
        least: the minimum size; the maximum is `LARGEST_VOCABULARY`.
        needed: the tokens that are always in the vocabulary, for the message.

    Raises:
        InvalidArguments: if the size is out of bounds; contains the bounds.
    """
    checks = Checks()
    expected = f"at least {least} ({needed}) and at most {LARGEST_VOCABULARY}"
    checks.that(least <= size <= LARGEST_VOCABULARY, "vocab_size", size, expected)
    checks.done()


def warn_if_smaller(size: int, requested: int) -> None:
    """Logs a warning if `size`, that of the trained vocabulary, is smaller than `requested`."""
    if size < requested:
        log.warning(
            "the trained vocabulary has %d tokens, fewer than data.tokenizer.vocab_size=%d, "
            "because the training text is too small",
            size,
            requested,
        )
