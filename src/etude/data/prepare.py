"""Preparation of text: trains the tokenizer, and writes the token ids and metadata of splits."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.data.split_writer import write_split
from etude.data.splits import Part, Split
from etude.data.store import TOKENIZER, write_store
from etude.data.tokenizer import Recipe
from etude.data.tokenizer_training import LOG_INTERVAL

log = logging.getLogger("etude.data")

TOKENS = "tokens"
"""Name of the column with the token ids of a split: one list per document."""


def write_text(
    folder: Path,
    parts: Mapping[str, Part],
    names: Sequence[Split],
    recipe: Recipe,
    identity: dict[str, Any],
) -> None:
    """Trains the tokenizer on the training split and writes all splits as token ids.

    The ids of a split are those of its documents, with the end-of-text id before each document but
    the first.

    Args:
        folder: an empty folder, to which the tokenizer, the columns and `meta.json` are written.
        parts: dict of functions. A function takes the name of a split, and yields the split's
            passages: pairs (document number, text). A mixture has one function for each source,
            under the source's name; other data has one, under the key "". Sources are stored one
            after the other. Documents are numbered from 0 in each function's result. Each function
            is called twice for "train": for training the tokenizer, and for writing.
        names: names of the splits to write.
        recipe: recipe of the tokenizer.
        identity: everything that determines the content of the files; saved in `meta.json`.
    """
    log.info("preparing data in %s", folder.with_suffix(""))
    tokenizer = recipe.train(_texts(parts))
    tokenizer.save(folder / TOKENIZER)
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    splits = {
        name: write_split(folder / f"{name}.{TOKENS}", parts, tokenizer, dtype, name)
        for name in names
    }
    write_store(folder, tokenizer, identity=identity, columns={TOKENS: dtype}, splits=splits)


def _texts(parts: Mapping[str, Part]) -> Iterator[str]:
    """Yields the texts of the training split, for training the tokenizer, and logs the progress.

    Args:
        parts: as in `write_text`.
    """
    read, next_log = 0, time.monotonic() + LOG_INTERVAL
    for part in parts.values():
        for _, text in part("train"):
            yield text
            read += len(text)
            if time.monotonic() > next_log:
                next_log = time.monotonic() + LOG_INTERVAL
                log.info("training the tokenizer: %s characters read", f"{read:,}")
