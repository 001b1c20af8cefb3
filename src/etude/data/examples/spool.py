"""Temporary files with the rows of a source, so that the source is read only once."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etude.data.examples.source import SPLITS, ExampleSource, Row, Split

GROUP_SIZE = 1000  # rows that are stored, and encoded, at a time


class SpooledRow(NamedTuple):
    """Row with its texts, as read from a temporary file.

    Attributes:
        row: the row.
        texts: the row's texts, as returned by `ExampleSource.texts`.
        key: hash of the texts, as returned by `text_key`.
    """

    row: Row
    texts: list[str]
    key: bytes


class Spool:
    """Temporary files with the rows of all splits.

    The files are written when the object is created. `rows` reads the rows of a split from them.

    Args:
        source: source whose rows are read and written to the files.
        folder: folder of the files.
    """

    def __init__(self, source: ExampleSource, folder: Path) -> None:
        self._files = {split: folder / f"rows.{split}" for split in SPLITS}
        # plain tuples: pickled three times as fast as named ones
        groups: dict[Split, list[tuple[Any, ...]]] = {split: [] for split in SPLITS}
        opened = {split: file.open("wb") for split, file in self._files.items()}
        try:
            for split, row in source.rows_by_split():
                texts = source.texts(row)
                group = groups[split]
                group.append((*row, texts, text_key(texts)))
                if len(group) == GROUP_SIZE:
                    pickle.dump(group, opened[split], pickle.HIGHEST_PROTOCOL)
                    group.clear()
            for split, group in groups.items():
                pickle.dump(group, opened[split], pickle.HIGHEST_PROTOCOL)
        finally:
            for file in opened.values():
                file.close()

    def rows(self, split: Split) -> Iterator[SpooledRow]:
        """Yields the rows of a split, in order."""
        with self._files[split].open("rb") as file:
            while True:
                try:
                    group = pickle.load(file)
                except EOFError:
                    return
                for *row, texts, key in group:
                    yield SpooledRow(Row(*row), texts, key)

    def remove(self) -> None:
        """Deletes the files."""
        for file in self._files.values():
            file.unlink(missing_ok=True)


def text_key(texts: Sequence[str]) -> bytes:
    """Returns a hash of a row's texts that ignores case and spacing.

    Rows with the same hash are duplicates.
    """
    normalized = "\0".join(" ".join(text.casefold().split()) for text in texts)
    return hashlib.blake2b(normalized.encode(errors="surrogatepass"), digest_size=16).digest()
