"""What every tokenizer's training shares: bounded cost, an end at Ctrl-C, sizes that make sense."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import tokenizers

from etude.data.passages import BREAK
from etude.errors import Checks

LONG_STRETCH = 512  # characters without a place to cut: no word of a language
LEARNT_FROM = 1 << 21  # characters of long stretches: byte-pair encoding takes some 8 us for each
NEWS_EVERY = 5.0  # seconds between two lines about the progress
LARGEST_VOCABULARY = 1 << 20  # four times the largest in use

log = logging.getLogger("etude.data")


def learnable(texts: Iterable[str]) -> Iterator[str]:
    """`texts` as a tokenizer's training can take them: what learning costs stays bounded.

    Training looks at each distinct word again and again, which is slow for words of thousands of
    characters and for millions of words that occur once. So a stretch of `LONG_STRETCH` or more
    characters without a place to cut (base64, a line of one letter) is given in pieces of that
    length, and after `LEARNT_FROM` characters of such stretches the others are left out.
    (SentencePiece leaves out every line of more than 4192 bytes.) A text without them passes
    unchanged.
    """
    left, told = LEARNT_FROM, False
    for text in texts:
        if not _may_hold_a_long_stretch(text):
            yield text
            continue
        done = 0  # what has been given of the text, or left out
        for start, end in _stretches(text):
            if end - start < LONG_STRETCH:
                continue
            if done < start:
                yield text[done:start]
            for place in range(start, min(end, start + left), LONG_STRETCH):
                yield text[place : min(place + LONG_STRETCH, end, start + left)]
            if end - start > left and not told:
                told = True
                log.warning(
                    "stretches of %d and more characters without a space: the tokenizer learns "
                    "from the first %s characters of them, and from all other text",
                    LONG_STRETCH,
                    f"{LEARNT_FROM:,}",
                )
            left = max(left - (end - start), 0)
            done = end
        if done < len(text):
            yield text[done:]


def _may_hold_a_long_stretch(text: str) -> bool:
    # A long stretch covers one of these windows, and nearly all have a place in their first
    # characters: a hundred times as fast as going through the text.
    half = LONG_STRETCH // 2
    return any(
        BREAK.search(text, place, place + half) is None
        for place in range(0, len(text) - half + 1, half)
    )


def _stretches(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for match in BREAK.finditer(text):
        yield start, match.start()
        start = match.start()
    yield start, len(text)


def learn(backend: tokenizers.Tokenizer, trainer: Any, texts: Iterable[str]) -> None:
    """Trains `backend` on `texts`; Ctrl-C ends it at once.

    The library's own loop hears of no signal for minutes, so it runs in a thread of its own. If it
    is past reading when it is interrupted, it goes on unheard until it or the process ends.
    """
    failed: list[BaseException] = []
    given_up, read = threading.Event(), threading.Event()

    def heard() -> Iterator[str]:
        for text in learnable(texts):
            if given_up.is_set():
                raise InterruptedError
            yield text
        read.set()

    def work() -> None:
        try:
            backend.train_from_iterator(heard(), trainer)
        except BaseException as error:  # of the texts, too: it is raised where it is waited for
            failed.append(error)

    worker = threading.Thread(target=work, daemon=True, name="learning a tokenizer")
    worker.start()
    began = time.monotonic()
    news = began + NEWS_EVERY
    try:
        while worker.is_alive():
            worker.join(0.2)
            now = time.monotonic()
            if read.is_set() and now > news:
                news = now + NEWS_EVERY
                log.info("learning the tokenizer: %d s so far", now - began)
    except BaseException:
        given_up.set()
        worker.join(1.0)  # a thread that still calls Python must not outlive the interpreter
        raise
    if failed:
        raise failed[0]


def check_vocabulary(size: int, least: int, needed: str) -> None:
    """Refuses sizes that the smallest tokenizer of the kind, or the memory, has no room for.

    Raises:
        InvalidArguments: with the bounds.
    """
    checks = Checks()
    expected = f"at least {least} ({needed}) and at most {LARGEST_VOCABULARY}"
    checks.that(least <= size <= LARGEST_VOCABULARY, "vocab_size", size, expected)
    checks.done()


def told_if_smaller(size: int, asked: int) -> None:
    """A warning if the text had fewer pieces than were asked for."""
    if size < asked:
        log.warning(
            "the text has only %d pieces worth a token; data.tokenizer.vocab_size asks for %d",
            size,
            asked,
        )
