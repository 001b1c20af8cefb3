"""Text to files of token ids, once: a tokenizer, `train.bin`, `val.bin`, and what is in them."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from etude.data.cache import built_once
from etude.data.tokenizer import Recipe, Tokenizer
from etude.errors import Problem, RequestError

log = logging.getLogger("etude.data")

Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")

Passage = tuple[int, str]
"""The number of a document, and a piece of its text (see `etude.data.passages`)."""

FORMAT = 1  # of the folder; a change makes new folders, old ones stay readable to old code
BATCH = 1 << 20  # characters tokenised at a time: some 100 MB in the library
NEWS_EVERY = 5.0  # seconds between two lines about the progress


@dataclass(frozen=True)
class SplitMeta:
    """What a split's file holds.

    Attributes:
        tokens: ids in the file, end-of-text ids included.
        bytes: UTF-8 bytes of the text; an end-of-text id has none.
        characters: code points of the text.
        documents: how many there are, a part of one counted as one.
        first_token_bytes: UTF-8 bytes that the first token stands for.
        unknown: how many characters the tokenizer doesn't know.
        most_unknown: the most frequent of these with their counts.
        sha256: of the file.
    """

    tokens: int
    bytes: int
    characters: int
    documents: int
    first_token_bytes: int
    unknown: int
    most_unknown: dict[str, int]
    sha256: str


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
            splits = {name: SplitMeta(**split) for name, split in values.pop("splits").items()}
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
    passages: Callable[[Split], Iterator[Passage]],
    content: str,
    settings: dict[str, object],
    recipe: Recipe,
) -> Prepared:
    """Trains the tokenizer on the training split and writes both splits as ids, once.

    The ids of a split are those of its documents, with the end-of-text id between one document
    and the next.

    Args:
        cache_dir: where prepared folders lie.
        passages: the text of a split in order; called twice for "train".
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
        tokenizer = recipe.train(text for _, text in passages("train"))
        tokenizer.save(folder / "tokenizer.json")
        dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
        splits: dict[str, SplitMeta] = {
            name: write_split(folder / f"{name}.bin", passages(name), tokenizer, dtype, name)
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


def write_split(
    path: Path, passages: Iterable[Passage], tokenizer: Tokenizer, dtype: str, name: str
) -> SplitMeta:
    """Appends the ids of `passages` to the file `path` and says what was written."""
    tokens = size = characters = documents = first_token_bytes = 0
    unknown: Counter[str] = Counter()
    digest = hashlib.sha256()
    current: int | None = None
    news = time.monotonic() + NEWS_EVERY
    with path.open("wb") as file:
        for batch in _batches(passages):
            encoded = tokenizer.encode_batch([text for _, text in batch])
            for (document, text), ids in zip(batch, encoded, strict=True):
                if not text:  # an empty document is none
                    continue
                if tokens == 0:
                    first_token_bytes = tokenizer.first_token_bytes(text)
                if document != current:
                    if current is not None and tokenizer.end_of_text is not None:
                        ids = [tokenizer.end_of_text, *ids]
                    current = document
                    documents += 1
                if tokenizer.unknown is not None and tokenizer.unknown in ids:
                    unknown += tokenizer.unknown_characters(text)
                data = np.array(ids, dtype=dtype).tobytes()
                file.write(data)
                digest.update(data)
                tokens += len(ids)
                characters += len(text)
                size += len(text.encode())
            if time.monotonic() > news:
                news = time.monotonic() + NEWS_EVERY
                log.info("%s: %s tokens of %s documents so far", name, f"{tokens:,}", documents)
    log.info("%s: %s tokens, %s documents", name, f"{tokens:,}", documents)
    most = dict(sorted(unknown.items(), key=lambda item: (-item[1], item[0]))[:5])
    if unknown:
        shown = ", ".join(f"{character!r} ({count})" for character, count in most.items())
        log.info("%s: %d unknown characters, first of all %s", name, unknown.total(), shown)
    return SplitMeta(
        tokens,
        size,
        characters,
        documents,
        first_token_bytes,
        unknown.total(),
        most,
        digest.hexdigest(),
    )


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
