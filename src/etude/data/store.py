"""Data that is prepared once and then read from a folder.

The folder contains the examples as columns of numbers (such as token ids), the tokenizer, and
metadata.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from etude.data.cache import build_once
from etude.data.columns import Column
from etude.data.module import DataModule
from etude.data.tokenizer import Recipe, Tokenizer
from etude.errors import Problem, RequestError
from etude.garbage_collection import collect_rarely_in_block

_NOT_USERS = {"etude", "pytorch_lightning", "lightning_fabric", *sys.stdlib_module_names}

META, TOKENIZER = "meta.json", "tokenizer.json"
FORMAT = 5  # version of the folder and of its readers; a change creates new folders


@dataclass(frozen=True)
class StoreMeta:
    """Metadata of a folder with prepared data, stored in `meta.json`.

    Attributes:
        identity: everything that determines the data, as JSON values: a hash of the content, the
            settings, and the tokenizer's recipe.
        tokenizer: fingerprint of the tokenizer.
        vocab_size: number of ids of the tokenizer.
        columns: NumPy type of the numbers in each column, little-endian, by the column's name.
        splits: metadata of each split, by name.
        labels: names of the labels or tags, by id.
        notes: notes for the user on how the data was read, one line each.
    """

    identity: dict[str, Any]
    tokenizer: str
    vocab_size: int
    columns: dict[str, str]
    splits: Mapping[str, Any]
    labels: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that determine the files (the content and the tokenizer do, too)."""
        settings: dict[str, Any] = self.identity["settings"]
        return settings


@dataclass(frozen=True)
class Store:
    """Folder with prepared data, opened for reading."""

    folder: Path
    tokenizer: Tokenizer
    meta: StoreMeta

    def column(self, split: str, name: str) -> Column:
        """Returns a column of a split, opened for reading.

        Args:
            split: name of the split.
            name: name of the column, such as `tokens`.
        """
        return Column(self.folder / f"{split}.{name}", self.meta.columns[name])


def write_store(folder: Path, tokenizer: Tokenizer, **meta: Any) -> None:
    """Writes `meta.json` into a folder that contains a tokenizer and columns.

    Args:
        folder: the folder.
        tokenizer: the tokenizer.
        meta: further fields of `StoreMeta`.
    """
    metadata = StoreMeta(tokenizer=tokenizer.fingerprint, vocab_size=tokenizer.vocab_size, **meta)
    text = json.dumps(asdict(metadata), indent=2, ensure_ascii=False)
    (folder / META).write_text(text + "\n", encoding="utf-8")


def open_store(folder: Path, split_meta: Any) -> Store:
    """Opens a folder with prepared data, which `write_store` completed.

    Args:
        folder: the folder.
        split_meta: class whose method `of` creates the metadata of a split from JSON values.

    Raises:
        RequestError: if a file is missing or broken.
    """
    try:
        values = json.loads((folder / META).read_text(encoding="utf-8"))
        splits = {name: split_meta.of(split) for name, split in values.pop("splits").items()}
        store = Store(
            folder, Tokenizer.load(folder / TOKENIZER), StoreMeta(**values, splits=splits)
        )
        for split, name in product(splits, store.meta.columns):
            column = store.column(split, name)
            numbers = int(column.ends[-1]) if len(column) else 0
            lists = splits[split].lists
            if (len(column), len(column.values)) != (lists, numbers):
                raise ValueError(
                    f"the files {split}.{name}.* contain {len(column):,} lists and "
                    f"{len(column.values):,} numbers instead of {lists:,} lists and {numbers:,} "
                    "numbers"
                )
        return store
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RequestError) as error:
        hint = f"to prepare the data again, remove the folder {folder}; {error}"
        expected = "complete, unmodified prepared data"
        raise RequestError(Problem(str(folder), expected, hint=hint)) from error


@dataclass(kw_only=True, eq=False)
class Stored(DataModule):
    """Base class of data that is prepared once, in a folder of the cache.

    Args:
        tokenizer: how to create the tokenizer: to train it on the data, or to load it.

    Attributes:
        recipe: the argument `tokenizer`, to which the special tokens of the task are added.
        split_meta: class whose method `of` creates the metadata of a split from JSON values.
    """

    tokenizer: Recipe

    split_meta: ClassVar[Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.recipe = self.tokenizer
        self._store: Store | None = None

    # -- defined by a subclass ----------------------------------------------------------------

    @abstractmethod
    def decided_by(self) -> dict[str, Any]:
        """Returns the settings that determine the prepared files: a dict of JSON values.

        The content and the tokenizer determine the files, too, but are not included.
        """

    @abstractmethod
    def write(self, folder: Path, identity: dict[str, Any]) -> None:
        """Writes the columns, the tokenizer, and (with `write_store`) the metadata into a folder.

        Args:
            folder: an empty folder.
            identity: everything that determines the content of the files; saved in `meta.json`.

        Raises:
            RequestError: if the data can't be used; contains the reason.
        """

    def opened(self, store: Store) -> None:
        """Checks that the prepared data fits the arguments; a subclass may also log notes.

        The base class does nothing.

        Args:
            store: the prepared data.

        Raises:
            RequestError: if the data does not fit the arguments.
        """

    # -- shared by all stored data ------------------------------------------------------------

    def fingerprint(self) -> str:
        """Returns the sha256 (hex) of the content and, if it is read from files, of the tokenizer.

        A tokenizer that is trained on the content is not included.

        Raises:
            RequestError: if the content or the tokenizer can't be read.
        """
        content, tokenizer = self.content_fingerprint(), self.recipe.fingerprint()
        if tokenizer is None:  # it is trained on the content
            return content
        return hashlib.sha256(f"{content} {tokenizer}".encode()).hexdigest()

    def files_read(self) -> list[Path] | None:
        content, tokenizer = self.content_files(), self.recipe.files_read()
        return None if content is None or tokenizer is None else content + tokenizer

    def prepare(self, cache_dir: Path) -> Store:
        """Prepares the data in `cache_dir`, unless that was done before, and returns it opened.

        Raises:
            RequestError: if the data can't be used; contains the reason.
        """
        identity = {
            "format": FORMAT,
            "kind": type(self).__name__,
            "content": self.content_fingerprint(),
            "settings": self.decided_by(),
            "recipe": self.recipe.settings(),
            **self._code(),
        }
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

        def build(folder: Path) -> None:
            with collect_rarely_in_block():  # garbage collection would take a quarter of the time
                self.write(folder, identity)

        folder = build_once(Path(cache_dir), key, build)
        store = open_store(folder, self.split_meta)
        self.opened(store)
        self._store = store
        if self.objective is not None:
            self.objective = self.objective.bound(store.tokenizer, store.meta)
        return store

    @property
    def stated_vocabulary(self) -> int | None:
        return self.recipe.stated_size

    def _code(self) -> dict[str, Any]:
        """Returns hashes of the source files that define the user's own data class.

        Files of its base classes are included, except Étude's. The result is `{"code": hashes}`,
        where `hashes` maps a module's name to the sha256 (hex) of its file; `{}` if there are none.
        """
        files = {}
        for kind in type(self).__mro__:
            if kind.__module__.partition(".")[0] not in _NOT_USERS:
                try:
                    content = Path(inspect.getfile(kind)).read_bytes()
                except (OSError, TypeError):  # defined in a notebook or the interpreter
                    continue
                files[kind.__module__] = hashlib.sha256(content).hexdigest()
        return {"code": files} if files else {}

    @property
    def store(self) -> Store:
        """The prepared data (the result of `prepare`)."""
        if self._store is None:
            raise RuntimeError("the data is not prepared: call prepare(cache_dir) first")
        return self._store

    @property
    def tokenizer_(self) -> Tokenizer:
        """The tokenizer with which the data was encoded."""
        return self.store.tokenizer

    @property
    def meta(self) -> StoreMeta:
        """Metadata of the prepared data and its splits."""
        return self.store.meta
