"""Text to files of token ids, once: a tokenizer, `train.bin`, `val.bin`, and what is in them."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from etude.data.cache import built_once
from etude.data.learning import NEWS_EVERY
from etude.data.splits import SPLITS, Part, SplitMeta
from etude.data.splits import Passage as Passage
from etude.data.splits import Split as Split
from etude.data.tokenizer import Recipe, Tokenizer
from etude.data.writing import write_split
from etude.errors import Problem, RequestError

log = logging.getLogger("etude.data")

FORMAT = 1  # of the folder; a change makes new folders, old ones stay readable to old code


@dataclass(frozen=True)
class Meta:
    """What a prepared folder holds: `meta.json`.

    Attributes:
        format: the layout's version.
        content: fingerprint of the raw text.
        settings: what decided the splits.
        recipe: what decided the tokenizer.
        tokenizer: fingerprint of the tokenizer.
        vocab_size: its number of ids.
        dtype: of the files, `uint16` or `uint32`, little-endian.
        splits: by name.
    """

    format: int
    content: str
    settings: dict[str, object]
    recipe: dict[str, object]
    tokenizer: str
    vocab_size: int
    dtype: str
    splits: dict[str, SplitMeta]


@dataclass(frozen=True)
class TokenFile:
    """Token ids on disk, mapped into memory when they are first read.

    It may be pickled or forked: each process maps the file for itself.
    """

    path: Path
    dtype: str
    tokens: int

    @cached_property
    def ids(self) -> NDArray[np.unsignedinteger]:
        """All ids, shape (tokens,), read-only."""
        if self.tokens == 0:  # an empty file can't be mapped
            return np.empty(0, dtype=self.dtype)
        # As a plain array: each operation on a `memmap` costs microseconds more.
        return np.asarray(np.memmap(self.path, dtype=self.dtype, mode="r", shape=(self.tokens,)))

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "dtype": self.dtype, "tokens": self.tokens}


@dataclass(frozen=True)
class Prepared:
    """A prepared folder, opened."""

    folder: Path
    tokenizer: Tokenizer
    meta: Meta

    def split(self, name: Split) -> TokenFile:
        """The token ids of a split."""
        path = self.folder / f"{name}.bin"
        return TokenFile(path, self.meta.dtype, self.meta.splits[name].tokens)

    @classmethod
    def open(cls, folder: Path) -> Prepared:
        """Reads `meta.json` and the tokenizer.

        Raises:
            RequestError: a file is missing, broken, or not of the size that `meta.json` says.
        """
        expected = "prepared data as it was written"
        hint = f"remove the folder {folder} and it will be made again"
        try:
            values = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            splits = {name: SplitMeta.of(split) for name, split in values.pop("splits").items()}
            prepared = cls(
                folder, Tokenizer.load(folder / "tokenizer.json"), Meta(**values, splits=splits)
            )
            itemsize = np.dtype(prepared.meta.dtype).itemsize
            for name in SPLITS:
                file = prepared.split(name)
                if file.path.stat().st_size != file.tokens * itemsize:
                    raise RequestError(Problem(str(file.path), expected, hint=hint))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RequestError(Problem(str(folder), expected, hint=f"{hint}; {error}")) from error
        return prepared


def prepare_text(
    cache_dir: Path,
    *,
    parts: Mapping[str, Part],
    content: str,
    settings: dict[str, object],
    recipe: Recipe,
) -> Prepared:
    """Trains the tokenizer on the training split and writes both splits as ids, once.

    The ids of a split are those of its documents, with the end-of-text id between one document
    and the next.

    Args:
        cache_dir: where prepared folders lie.
        parts: the text; one part, or the sources of a mixture by name, which lie one after the
            other in the files. Each is called twice for "train".
        content: fingerprint of the raw text.
        settings: what, besides the content, decides the splits.
        recipe: how to make the tokenizer.

    Raises:
        RequestError: the folder can't be written, or is broken.
    """
    identity = {
        "format": FORMAT,
        "content": content,
        "settings": settings,
        "recipe": recipe.settings(),
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    def build(folder: Path) -> None:
        log.info("preparing data in %s", cache_dir / key)
        tokenizer = recipe.train(_texts(parts))
        tokenizer.save(folder / "tokenizer.json")
        dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
        splits: dict[str, SplitMeta] = {
            name: write_split(folder / f"{name}.bin", parts, tokenizer, dtype, name)
            for name in SPLITS
        }
        meta = Meta(
            format=FORMAT,
            content=content,
            settings=settings,
            recipe=recipe.settings(),
            tokenizer=tokenizer.fingerprint,
            vocab_size=tokenizer.vocab_size,
            dtype=dtype,
            splits=splits,
        )
        text = json.dumps(asdict(meta), indent=2, ensure_ascii=False)
        (folder / "meta.json").write_text(text + "\n", encoding="utf-8")

    return Prepared.open(built_once(cache_dir, key, build))


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
