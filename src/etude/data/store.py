"""Stored data: prepared once into a folder of typed columns, a tokenizer, and what is in them."""

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

from etude.collecting import rarely
from etude.data.cache import built_once
from etude.data.columns import Column
from etude.data.module import DataModule
from etude.data.tokenizer import Recipe, Tokenizer
from etude.errors import Problem, RequestError

_NOT_USERS = {"etude", "pytorch_lightning", "lightning_fabric", *sys.stdlib_module_names}

META, TOKENIZER = "meta.json", "tokenizer.json"
FORMAT = 5  # of the folder, and of how data is read; a change makes new folders


@dataclass(frozen=True)
class Meta:
    """What a prepared folder holds: `meta.json`.

    Attributes:
        identity: what decided it: the content, the settings, the tokenizer's recipe.
        tokenizer: fingerprint of the tokenizer.
        vocab_size: its number of ids.
        columns: the type of the numbers in each, little-endian.
        splits: what each holds, by name.
        labels: the names of the labels or tags, by number.
        notes: what a user should know of how the data was read, a line each.
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
        """What, besides the content and the tokenizer, decided what is written."""
        found: dict[str, Any] = self.identity["settings"]
        return found


@dataclass(frozen=True)
class Store:
    """A prepared folder, opened."""

    folder: Path
    tokenizer: Tokenizer
    meta: Meta

    def column(self, split: str, name: str) -> Column:
        """A column of a split."""
        return Column(self.folder / f"{split}.{name}", self.meta.columns[name])


def write_store(folder: Path, tokenizer: Tokenizer, **meta: Any) -> None:
    """Writes `meta.json`, beside a tokenizer and columns that are there.

    Args:
        meta: as for `Meta`.
    """
    found = Meta(tokenizer=tokenizer.fingerprint, vocab_size=tokenizer.vocab_size, **meta)
    text = json.dumps(asdict(found), indent=2, ensure_ascii=False)
    (folder / META).write_text(text + "\n", encoding="utf-8")


def open_store(folder: Path, split_meta: Any) -> Store:
    """Reads what `write_store` wrote.

    Args:
        split_meta: the class that says what a split holds.

    Raises:
        RequestError: a file is missing or broken.
    """
    try:
        values = json.loads((folder / META).read_text(encoding="utf-8"))
        splits = {name: split_meta.of(split) for name, split in values.pop("splits").items()}
        store = Store(folder, Tokenizer.load(folder / TOKENIZER), Meta(**values, splits=splits))
        for split, name in product(splits, store.meta.columns):
            column = store.column(split, name)
            numbers = int(column.ends[-1]) if len(column) else 0
            if (len(column), len(column.values)) != (splits[split].lists, numbers):
                raise ValueError(f"{split}.{name} is not of the size that was written")
        return store
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RequestError) as error:
        hint = f"remove the folder {folder} and it will be made again; {error}"
        expected = "prepared data as it was written"
        raise RequestError(Problem(str(folder), expected, hint=hint)) from error


@dataclass(kw_only=True, eq=False)
class Stored(DataModule):
    """Data that is prepared once.

    Args:
        tokenizer: how to make the tokenizer.

    Attributes:
        recipe: the tokenizer's, with the special tokens that the task needs.
        split_meta: the class that says what a split holds.
    """

    tokenizer: Recipe

    split_meta: ClassVar[Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.recipe = self.tokenizer
        self._store: Store | None = None

    # -- what a source says -------------------------------------------------------------------

    @abstractmethod
    def decided_by(self) -> dict[str, Any]:
        """What, besides the content and the tokenizer, decides what is written, as plain JSON
        values.
        """

    @abstractmethod
    def write(self, folder: Path, identity: dict[str, Any]) -> None:
        """Writes the columns and the tokenizer, and calls `write_store`.

        Args:
            folder: empty.
            identity: what decides what is written.

        Raises:
            RequestError: the data can't be used; says what, and why.
        """

    def opened(self, store: Store) -> None:
        """Looks at what is prepared, and says what a user should know.

        Raises:
            RequestError: it does not fit the arguments.
        """

    # -- what every stored source has ---------------------------------------------------------

    def fingerprint(self) -> str:
        """sha256 (hex) of all that the examples come from: the content, and a tokenizer from files.

        Raises:
            RequestError: one of them can't be read.
        """
        content, tokenizer = self.content_fingerprint(), self.recipe.fingerprint()
        if tokenizer is None:  # it is learnt from the content
            return content
        return hashlib.sha256(f"{content} {tokenizer}".encode()).hexdigest()

    def files_read(self) -> list[Path] | None:
        content, tokenizer = self.content_files(), self.recipe.files_read()
        return None if content is None or tokenizer is None else content + tokenizer

    def prepare(self, cache_dir: Path) -> Store:
        """Writes the data into `cache_dir`, or finds it there.

        Raises:
            RequestError: the data can't be used; says what, and why.
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
            with rarely():  # a quarter of the time would go into looking for garbage
                self.write(folder, identity)

        folder = built_once(Path(cache_dir), key, build)
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
        """Hashes of the files of the user's own classes: another code reads other data."""
        files = {}
        for kind in type(self).__mro__:
            if kind.__module__.partition(".")[0] not in _NOT_USERS:
                try:
                    content = Path(inspect.getfile(kind)).read_bytes()
                except (OSError, TypeError):  # of a notebook's cell, or of the interpreter
                    continue
                files[kind.__module__] = hashlib.sha256(content).hexdigest()
        return {"code": files} if files else {}

    @property
    def store(self) -> Store:
        """What `prepare` returned."""
        if self._store is None:
            raise RuntimeError("prepare(cache_dir) comes first")
        return self._store

    @property
    def tokenizer_(self) -> Tokenizer:
        """The tokenizer that the data was encoded with."""
        return self.store.tokenizer

    @property
    def meta(self) -> Meta:
        """What the splits hold."""
        return self.store.meta
