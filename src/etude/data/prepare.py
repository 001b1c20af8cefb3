"""Text to columns of token ids, once: a tokenizer, the ids of each split, and what is in them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.data.learning import NEWS_EVERY
from etude.data.splits import Part, Split
from etude.data.store import TOKENIZER, write_store
from etude.data.tokenizer import Recipe
from etude.data.writing import write_split

log = logging.getLogger("etude.data")

TOKENS = "tokens"
"""The column of a text's ids: a list for each document."""


def write_text(
    folder: Path,
    parts: Mapping[str, Part],
    names: Sequence[Split],
    recipe: Recipe,
    identity: dict[str, Any],
) -> None:
    """Trains the tokenizer on the training split and writes all splits as ids.

    The ids of a split are those of its documents, with the end-of-text id before each but the
    first.

    Args:
        folder: empty.
        parts: the text; one part, or the sources of a mixture by name, which lie one after the
            other in the files. Each is called twice for "train".
        names: of the splits.
        recipe: how to make the tokenizer.
        identity: what decides all that.
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
    """What the tokenizer learns from, with a line now and then about how far that is."""
    read, news = 0, time.monotonic() + NEWS_EVERY
    for part in parts.values():
        for _, text in part("train"):
            yield text
            read += len(text)
            if time.monotonic() > news:
                news = time.monotonic() + NEWS_EVERY
                log.info("learning the tokenizer: %s characters read", f"{read:,}")
