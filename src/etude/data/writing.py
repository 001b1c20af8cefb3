"""A split's text to a file of token ids, with counts of both."""

from __future__ import annotations

import hashlib
import logging
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from etude.data.columns import beside
from etude.data.learning import NEWS_EVERY
from etude.data.passages import PASSAGE, parted_well
from etude.data.splits import Part, Passage, SectionMeta, Split, SplitMeta
from etude.data.tokenizer import Tokenizer, most_is_lost
from etude.errors import RequestError

log = logging.getLogger("etude.data")

BATCH = 1 << 20  # characters tokenised at a time: some 100 MB in the library
SHOWN = 40  # characters of an unknown word
NAMED_FROM = 100  # passages with something unknown, the first ones


def write_split(
    path: Path, parts: Mapping[str, Part], tokenizer: Tokenizer, dtype: str, name: Split
) -> SplitMeta:
    """Writes the ids of a split, part after part, to the column `path`, a list for each document,
    and says what was written.
    """
    with beside(path, ".values").open("wb") as file, beside(path, ".ends").open("wb") as ends:
        writer = _Writer(file, ends, tokenizer, dtype, name)
        for part, passages in parts.items():
            writer.section(part, passages(name))
        return writer.finish()


class _Writer:
    """Text in, ids out, and counts of both."""

    def __init__(
        self, file: BinaryIO, ends: BinaryIO, tokenizer: Tokenizer, dtype: str, name: str
    ) -> None:
        self.ends = ends
        self.file, self.tokenizer, self.dtype, self.name = file, tokenizer, dtype, name
        self.characters = self.documents = 0
        self.unknown = 0
        self._names: Counter[str] = Counter()
        self._with_unknown = 0  # passages
        self._lost: Counter[str] = Counter()  # characters without a token
        self.lossless = True
        self.sections: dict[str, SectionMeta] = {}
        self._digest = hashlib.sha256()
        self._news = time.monotonic() + NEWS_EVERY
        self._written = 0  # ids, of all sections
        self._told_of_cuts = False

    def section(self, part: str, passages: Iterable[Passage]) -> None:
        """Appends the documents of one part, the end-of-text id between one and the next."""
        start, size, first_token_bytes = self._written, 0, 0
        current: int | None = None
        before = ""
        for batch, encoded in encoded_passages(passages, self.tokenizer):
            for (document, text), ids in zip(batch, encoded, strict=True):
                if not text:  # an empty document is none
                    continue
                if self._written == start:
                    first_token_bytes = self.tokenizer.first_token_bytes(text)
                self._look_at(text, ids, before if document == current else "")
                if document != current:
                    if current is not None:
                        self._end_document()
                        if self.tokenizer.end_of_text is not None:
                            ids = [self.tokenizer.end_of_text, *ids]
                    current = document
                    self.documents += 1
                data = np.frombuffer(array("I", ids), dtype=np.uintc).astype(self.dtype).tobytes()
                self.file.write(data)
                self._digest.update(data)
                self._written += len(ids)
                self.characters += len(text)
                size += len(text.encode())
                before = text
            self._tell()
        if current is not None:
            self._end_document()
        tokens = self._written - start
        self.sections[part] = SectionMeta(start, tokens, size, first_token_bytes)

    def finish(self) -> SplitMeta:
        """What was written; a line in the log about it."""
        tokens = self._written
        log.info("%s: %s tokens, %s documents", self.name, f"{tokens:,}", self.documents)
        if problem := most_is_lost(self._lost, self.characters, self.name):
            raise RequestError(problem)
        most = dict(sorted(self._names.items(), key=lambda item: (-item[1], item[0]))[:5])
        if self._lost:
            log.warning(
                "%s: %s characters are in none of the tokenizer's tokens and left out",
                self.name,
                f"{self._lost.total():,}",
            )
        if self.unknown:
            shown = ", ".join(f"{piece!r} ({count})" for piece, count in most.items())
            log.info("%s: %d unknown, first of all %s", self.name, self.unknown, shown)
        sections = list(self.sections.values())
        return SplitMeta(
            tokens=tokens,
            bytes=sum(section.bytes for section in sections),
            characters=self.characters,
            documents=self.documents,
            first_token_bytes=sum(section.first_token_bytes for section in sections),
            unknown=self.unknown,
            most_unknown=most,
            sha256=self._digest.hexdigest(),
            lossless=self.lossless,
            sections={} if set(self.sections) == {""} else self.sections,
        )

    def _look_at(self, text: str, ids: list[int], before: str) -> None:
        """Notes what is unknown or lost, and warns where a cut may have changed tokens."""
        tokenizer = self.tokenizer
        if tokenizer.unknown is not None and tokenizer.unknown in ids:
            self.unknown += ids.count(tokenizer.unknown)
            self._with_unknown += 1
            if self._with_unknown <= NAMED_FROM:  # it is encoded once more for that
                pieces = tokenizer.unknown_pieces(text)
                self._names.update({piece[:SHOWN]: count for piece, count in pieces.items()})
        if tokenizer.loses and (lost := tokenizer.lost_pieces(text)):
            self._lost.update(lost)
            self.unknown += lost.total()
            self._names.update(lost)
        if tokenizer.rewrites and self.lossless:
            self.lossless = tokenizer.decode(ids) == text
        if not before or self._told_of_cuts or tokenizer.cuts == "anywhere":
            return
        if tokenizer.cuts == "unknown":
            self._told_of_cuts = True
            log.warning(
                "%s: documents are tokenised in pieces of %s characters; with this tokenizer the "
                "tokens beside a cut may differ from those of the whole document",
                self.name,
                f"{PASSAGE:,}",
            )
        elif not parted_well(before, text):
            self._told_of_cuts = True
            log.warning(
                "%s: a text of more than %s characters without a space is cut in the middle; the "
                "tokens beside a cut may differ from those of the whole",
                self.name,
                f"{PASSAGE:,}",
            )

    def _end_document(self) -> None:
        self.ends.write(self._written.to_bytes(8, "little"))

    def _tell(self) -> None:
        if time.monotonic() > self._news:
            self._news = time.monotonic() + NEWS_EVERY
            tokens = f"{self._written:,}"
            log.info("%s: %s tokens of %s documents so far", self.name, tokens, self.documents)


def encoded_passages(
    passages: Iterable[Passage], tokenizer: Tokenizer
) -> Iterator[tuple[list[Passage], list[list[int]]]]:
    """Passages in batches, with their ids; the next is encoded while the caller works on this."""
    with ThreadPoolExecutor(1, "encoding") as pool:
        waiting: tuple[list[Passage], Future[list[list[int]]]] | None = None
        for batch in _batches(passages):
            future = pool.submit(tokenizer.encode_batch, [text for _, text in batch])
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = batch, future
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _batches(passages: Iterable[Passage]) -> Iterator[list[Passage]]:
    batch: list[Passage] = []
    characters = 0
    for passage in passages:
        batch.append(passage)
        characters += len(passage[1])
        if characters >= BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
