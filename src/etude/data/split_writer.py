"""Writes the text of a split as a column of token ids, and counts the characters and ids."""

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

from etude.counts import counted
from etude.data.columns import column_file
from etude.data.passages import PASSAGE, is_clean_cut
from etude.data.splits import Part, Passage, SectionMeta, Split, TextSplitMeta
from etude.data.tokenizer import Tokenizer, lost_text_problem
from etude.data.tokenizer_training import LOG_INTERVAL
from etude.errors import RequestError

log = logging.getLogger("etude.data")

BATCH = 1 << 20  # characters tokenized at a time: about 100 MB in the library
SHOWN = 40  # maximum length of a recorded unknown word, in characters
NAMED_FROM = 100  # number of passages from which unknown words are recorded


def write_split(
    path: Path, parts: Mapping[str, Part], tokenizer: Tokenizer, dtype: str, name: Split
) -> TextSplitMeta:
    """Writes the token ids of a split as a column: the ids of all documents, and where each ends.

    The column has two files: the ids have the suffix `.values`, the ends of documents `.ends`.

    Args:
        path: path of the column, without suffixes.
        parts: dict of functions. A function takes the name of a split, and yields the split's
            passages (pieces of documents): pairs (document number, text). All passages of a
            document have its number. A mixture has one function for each source, under the
            source's name; other data has one, under the key "". Their texts are written one after
            the other.
        tokenizer: the tokenizer.
        dtype: NumPy type of the ids.
        name: name of the split.

    Returns:
        The metadata of the split.
    """
    with (
        column_file(path, ".values").open("wb") as file,
        column_file(path, ".ends").open("wb") as ends,
    ):
        writer = _Writer(file, ends, tokenizer, dtype, name)
        for part, passages in parts.items():
            writer.section(part, passages(name))
        return writer.finish()


class _Writer:
    """Writes the token ids of a split, and counts documents, characters and ids.

    Args:
        file: file to which the ids are written.
        ends: file to which the position after the last id of each document is written.
        tokenizer, dtype, name: as in `write_split`.
    """

    def __init__(
        self, file: BinaryIO, ends: BinaryIO, tokenizer: Tokenizer, dtype: str, name: str
    ) -> None:
        self.ends = ends
        self.file, self.tokenizer, self.dtype, self.name = file, tokenizer, dtype, name
        self.characters = self.documents = 0
        self.unknown = 0
        self._unknown_names: Counter[str] = Counter()
        self._with_unknown = 0  # passages
        self._lost: Counter[str] = Counter()  # characters without a token
        self.lossless = True
        self.sections: dict[str, SectionMeta] = {}
        self._digest = hashlib.sha256()
        self._next_log = time.monotonic() + LOG_INTERVAL
        self._written = 0  # ids, of all sections
        self._warned_of_cuts = False

    def section(self, part: str, passages: Iterable[Passage]) -> None:
        """Appends the documents of a section, with the end-of-text id between documents.

        A section is the text of one source of a mixture, or the whole split of other data. No
        end-of-text id precedes its first document. Empty documents are skipped.

        Args:
            part: name of the source; empty for data that is not a mixture.
            passages: the documents, cut into passages.
        """
        start, size, first_token_bytes = self._written, 0, 0
        current: int | None = None
        before = ""
        for batch, encoded in encoded_passages(passages, self.tokenizer):
            for (document, text), ids in zip(batch, encoded, strict=True):
                if not text:  # skip empty documents
                    continue
                if self._written == start:
                    first_token_bytes = self.tokenizer.first_token_bytes(text)
                self._count_unknown(text, ids, before if document == current else "")
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
            self._log_progress()
        if current is not None:
            self._end_document()
        tokens = self._written - start
        self.sections[part] = SectionMeta(start, tokens, size, first_token_bytes)

    def finish(self) -> TextSplitMeta:
        """Returns the metadata of the split, and logs a summary.

        Raises:
            RequestError: if the tokenizer drops more than half of the characters.
        """
        tokens = self._written
        documents = counted(self.documents, "document")
        log.info("%s: %s, %s", self.name, counted(tokens, "token"), documents)
        if problem := lost_text_problem(self._lost, self.characters, self.name):
            raise RequestError(problem)
        most = dict(sorted(self._unknown_names.items(), key=lambda item: (-item[1], item[0]))[:5])
        if self._lost:
            log.warning(
                "%s: dropped %s characters for which the tokenizer has no token",
                self.name,
                f"{self._lost.total():,}",
            )
        if self.unknown:
            shown = ", ".join(f"{piece!r} ({count})" for piece, count in most.items())
            log.info(
                "%s: %d characters or words are unknown to the tokenizer, most often %s",
                self.name,
                self.unknown,
                shown,
            )
        sections = list(self.sections.values())
        return TextSplitMeta(
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

    def _count_unknown(self, text: str, ids: list[int], before: str) -> None:
        """Counts a passage's unknown and lost text, and warns if a cut may have changed tokens.

        Unknown text is encoded as the unknown token, lost text as no token.

        Args:
            text: text of a passage.
            ids: token ids of the passage.
            before: text of the previous passage of the same document; empty if there is none.
        """
        tokenizer = self.tokenizer
        if tokenizer.unknown is not None and tokenizer.unknown in ids:
            self.unknown += ids.count(tokenizer.unknown)
            self._with_unknown += 1
            if self._with_unknown <= NAMED_FROM:  # requires encoding the text again
                pieces = tokenizer.unknown_pieces(text)
                self._unknown_names.update(
                    {piece[:SHOWN]: count for piece, count in pieces.items()}
                )
        if tokenizer.loses and (lost := tokenizer.lost_pieces(text)):
            self._lost.update(lost)
            self.unknown += lost.total()
            self._unknown_names.update(lost)
        if tokenizer.rewrites and self.lossless:
            self.lossless = tokenizer.decode(ids) == text
        if not before or self._warned_of_cuts or tokenizer.cuts == "anywhere":
            return
        if tokenizer.cuts == "unknown":
            self._warned_of_cuts = True
            log.warning(
                "%s: documents are cut into pieces of %s characters, which are tokenized "
                "separately; with this tokenizer, the tokens next to a cut may differ from those "
                "of the uncut document",
                self.name,
                f"{PASSAGE:,}",
            )
        elif not is_clean_cut(before, text):
            self._warned_of_cuts = True
            log.warning(
                "%s: a document has more than %s characters without a space, so it is cut inside a "
                "word; the tokens next to a cut may differ from those of the uncut document",
                self.name,
                f"{PASSAGE:,}",
            )

    def _end_document(self) -> None:
        self.ends.write(self._written.to_bytes(8, "little"))

    def _log_progress(self) -> None:
        if time.monotonic() > self._next_log:
            self._next_log = time.monotonic() + LOG_INTERVAL
            tokens, documents = counted(self._written, "token"), counted(self.documents, "document")
            log.info("%s: %s from %s so far", self.name, tokens, documents)


def encoded_passages(
    passages: Iterable[Passage], tokenizer: Tokenizer
) -> Iterator[tuple[list[Passage], list[list[int]]]]:
    """Yields batches, as pairs: a list of passages, and a list with the token ids of each passage.

    The passages are in their order. A batch has at least `BATCH` characters, the last may have
    fewer. The next batch is encoded in the background.
    """
    with ThreadPoolExecutor(1, "encoding") as pool:
        pending: tuple[list[Passage], Future[list[list[int]]]] | None = None
        for batch in _batches(passages):
            future = pool.submit(tokenizer.encode_batch, [text for _, text in batch])
            if pending is not None:
                yield pending[0], pending[1].result()
            pending = batch, future
        if pending is not None:
            yield pending[0], pending[1].result()


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
