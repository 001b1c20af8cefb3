"""Files of one's own: plain text, or rows in JSON, CSV or Parquet; compressed or not."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from etude.data.formats import Format, endings, format_of
from etude.data.passages import cut
from etude.data.plain import ReadOnce, Scan, characters_of, lines_of, scan, sha256
from etude.data.rows import (
    READING,
    choose_column,
    columns_of,
    needless_quoting,
    newlines,
    split_rows,
    texts,
    values_of,
)
from etude.data.splits import SPLITS, Document, Passage, Split
from etude.data.text import TextData
from etude.errors import Checks, Problem, RequestError, nearest
from etude.records.opening import is_there, odd

log = logging.getLogger("etude.data")

KEYS = {"train": "data.path", "val": "data.validation", "test": "data.test"}
"""What states the files of each split."""


@dataclass(kw_only=True, eq=False)
class TextFiles(TextData):
    """A corpus in files: plain text, each file a document, or tables, each row a document.

    *Plain text* (`.txt`, `.md`, no suffix). The text is the files one after the other: those of a
    folder or a glob sorted by path, a list in its own order, a file that is met twice taken once.
    The first `int(n * (1 - validation))` of its n characters are for training, so the file in which
    that place lies is in both splits. With one file that is the split of nanoGPT's Shakespeare.

    *Rows* (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.parquet`), streamed, except for a
    `.json` file that is one list of objects, which is read whole. Documents are never cut:
    document i of the corpus, from 0, is held out if floor((i + 1) v) > floor(i v) with
    v = `validation`, so with 0.1 every tenth. Rows without text (null, empty, or the key left out)
    are no documents. In CSV the first line names the columns, every cell is text as it stands (`NA`
    too), and an empty one is empty.

    All but Parquet, which is compressed within, may be compressed, with `.gz`, `.bz2`, `.xz` or
    `.zst` after the suffix. Text is UTF-8. A byte order mark is dropped and every line end is read
    as a newline, so what was saved on Windows gives the same tokens as its Unix twin.

    Args:
        path: a file, a folder (its files of these kinds at any depth, hidden ones left out), a
            glob (`**` included), or a list of these. Plain text and rows can't be mixed.
        validation: the part of the characters or rows that is held out, between 0 and 1; or the
            files that are, as for `path`, and then all of `path` is trained on.
        test: the files of a split for testing, as for `path`; None is no such split.
        split: which part is held out. `regular`: as above, the end of plain text, and every so many
            rows. `keyed`: documents (files, rows, lines) drawn by what stands in them, so equal
            ones are in one split, and most stay where they are when others come; at least one. A
            single file of plain text is held out at its end.
        column: for rows, the column of the text; None takes `text`, else the only one of text.
        lines: each line of plain text is a document, and is held out as a row would be; those that
            are blank are none.
        quoting: of TSV and CSV, see `etude.data.delimited.quoted`.
    """

    path: str | list[str]
    validation: float | str | list[str] = 0.1
    test: str | list[str] | None = None
    split: Literal["regular", "keyed"] = "regular"
    column: str | None = None
    lines: bool = False
    quoting: Literal["csv", "none"] | None = None

    def __post_init__(self) -> None:
        self.paths = [self.path] if isinstance(self.path, str) else list(self.path)
        self.part, self.held_out = _part_or_files(self.validation)
        self.tested = [self.test] if isinstance(self.test, str) else list(self.test or ())
        super().__post_init__()
        self._once = ReadOnce()

    def validate(self, checks: Checks) -> None:
        some = bool(self.paths) and all(self.paths)
        checks.that(some, "path", self.path, "a file, a folder, a glob, or a list")
        inside = all(self.held_out) if self.part is None else 0 < self.part < 1
        expected = "a part between 0 and 1, or files"
        checks.that(inside, "validation", self.validation, expected)
        tested = self.test is None or (bool(self.tested) and all(self.tested))
        checks.that(tested, "test", self.test, "null or files")
        known = self.split in ("regular", "keyed")
        checks.that(known, "split", self.split, "regular or keyed")
        named = self.column is None or bool(self.column)
        checks.that(named, "column", self.column, "a column's name")
        super().validate(checks)

    @property
    def splits(self) -> tuple[Split, ...]:
        return (*SPLITS, "test") if self.tested else SPLITS

    def files(self) -> list[Path]:
        """The files in order, and then those that are held out, and those for testing.

        Raises:
            RequestError: with every path that can't be used, and every file that is in two splits.
        """
        known: dict[Path, str] = {}
        found: list[Path] = []
        problems: list[Problem] = []
        for split in ("train", "val", "test"):
            key = KEYS[split]
            for file in self._own(split):
                other = known.setdefault(file.resolve(), key)
                if other != key:
                    problems.append(Problem(key, f"other files than those of {other}", str(file)))
                found.append(file)
        if problems:
            raise RequestError(problems)
        return found

    def _own(self, split: Split) -> list[Path]:
        """The files that are stated for a split."""
        paths = {"train": self.paths, "val": self.held_out, "test": self.tested}[split]
        return files_of(paths, KEYS[split]) if paths else []

    def _files_of(self, split: Split) -> list[Path]:
        """Those that a split is in; it is a part of the training files, if it has none."""
        return self._own(split) or self._own("train")

    def check(self) -> None:
        files = self.files()
        formats = [_format(file) for file in files]
        if len({form.rows for form in formats}) > 1:
            first = {
                form.rows: file for file, form in reversed([*zip(files, formats, strict=True)])
            }
            expected = "plain text or rows, not both"
            hint = f"{first[False]} and {first[True]} are there; a glob like data/*.jsonl takes one"
            raise RequestError(Problem("data.path", expected, self.paths, hint))
        if needless := needless_quoting(self.quoting, files):
            raise RequestError(needless)
        if self._rows():
            if self.lines:
                expected = "false: each row is a document already"
                raise RequestError(Problem("data.lines", expected, True))
            self._check_rows()
            return
        if self.column is not None:
            expected = "null: plain text has no columns"
            raise RequestError(Problem("data.column", expected, self.column))
        problems: list[Problem] = []
        for file in files:
            try:
                self._scan(file)
            except RequestError as error:
                problems += error.problems
        if problems:
            raise RequestError(problems)
        if not any(self._scan(file).characters for file in files):
            raise RequestError(Problem("data.path", "text; its files are empty", self.paths))
        trained = {self._scan(file).sha256: file for file in self._own("train")}
        for split in ("val", "test"):
            for file in self._own(split):
                if (other := trained.get(self._scan(file).sha256)) is not None:
                    log.warning("%s: %s has the content of %s", KEYS[split], file, other)

    def content_fingerprint(self) -> str:
        digest = hashlib.sha256()
        rows = self._rows()
        for split, mark in (("train", b""), ("val", b"validation"), ("test", b"test")):
            files = self._own(split)  # type: ignore[arg-type]
            digest.update(mark if files else b"")
            for file in files:
                found = self._once(sha256, file) if rows else self._scan(file).sha256
                digest.update(bytes.fromhex(found))
        if rows:
            digest.update(self._column().encode())
        return digest.hexdigest()

    def content_files(self) -> list[Path] | None:
        return searched([*self.paths, *self.held_out, *self.tested], self.files())

    def split_settings(self) -> dict[str, object]:
        lines = {"lines": True} if self.lines else {}
        quoting = {"quoting": self.quoting} if self.quoting else {}
        reading = {"reading": READING} if self._rows() else {}
        test = {"test": "files"} if self.tested else {}
        keyed = {"split": "keyed"} if self.split == "keyed" else {}
        return {
            "corpus": "text_files",
            "validation": "files" if self.part is None else self.part,
            **lines,
            **quoting,
            **reading,
            **test,
            **keyed,
        }

    def documents(self, split: Split) -> Iterator[str]:
        return (text for _, text in self.sourced(split))

    def sourced(self, split: Split) -> Iterator[Document]:
        if self._rows() or self.lines:
            yield from self._belonging(split)
            return
        for file, first, last in self._spans(split):
            place = f"{file}, from character {first:,}" if first else str(file)
            yield place, "".join(characters_of(file, first, last))

    def passages(self, split: Split) -> Iterator[Passage]:
        if self._rows() or self.lines:
            yield from super().passages(split)
            return
        for number, (file, first, last) in enumerate(self._spans(split)):
            for text in cut(characters_of(file, first, last)):
                yield number, text

    def _all(self, split: Split) -> Iterator[Document]:
        """All documents of a split's files, of rows and lines."""
        if self._rows():
            for where, text in texts(self._values(split), tell=split == "val"):
                yield where, newlines(text)
            return
        for file in self._files_of(split):
            for number, line in _lines(file):
                yield f"{file}, line {number}", line

    def _belonging(self, split: Split) -> Iterator[Document]:
        """Those documents of a split's files that belong to it."""
        documents = self._all(split)
        if split == "test" or self.part is None:
            yield from documents
        elif self.split == "regular":
            yield from split_rows(documents, held_out=split == "val", validation=self.part)
        else:
            border = self._border
            for where, text in documents:
                if (key_of(text.encode()) <= border) == (split == "val"):
                    yield where, text

    @cached_property
    def _border(self) -> int:
        """The largest key of a document that is held out."""
        assert self.part is not None
        if self._rows() or self.lines:
            keys = array("Q", (key_of(text.encode()) for _, text in self._all("train")))
        else:
            files = [file for file in self._own("train") if self._scan(file).characters]
            keys = array("Q", (self._once(key_of_file, file) for file in files))
        return held_out(keys, self.part)

    def _rows(self) -> bool:
        return _format(self.files()[0]).rows

    def _check_rows(self) -> None:
        problems: list[Problem] = []
        for file in self.files():
            try:
                self._columns(file)
            except RequestError as error:
                problems += error.problems
        if problems:
            raise RequestError(problems)
        column = self._column()
        for file in self.files():
            if found := self._columns(file):
                choose_column(found, column, str(file))

    def _column(self) -> str:
        """The column to read, as the first file that has rows tells."""
        for file in self.files():
            if found := self._columns(file):
                return choose_column(found, self.column, str(file))
        raise RequestError(Problem("data.path", "rows; its files have none", self.paths))

    def _columns(self, file: Path) -> dict[str, bool]:
        if file.stat().st_size == 0:
            return {}
        found: dict[str, bool] = self._once(columns_of, file, _format(file), self.quoting)
        return found

    def _values(self, split: Split) -> Iterator[tuple[str, Any]]:
        column = self._column()
        for file in self._files_of(split):
            if not self._columns(file):
                continue
            for where, value in values_of(file, _format(file), column, self.quoting):
                yield f"{where}, column {column}", value

    def _spans(self, split: Split) -> Iterator[tuple[Path, int, int]]:
        """Each file's characters [first, last) that belong to the split, unless there are none."""
        files = self._files_of(split)
        counts = [self._scan(file).characters for file in files]
        if split == "test" or self.part is None:
            yield from ((file, 0, n) for file, n in zip(files, counts, strict=True) if n)
            return
        if self.split == "keyed" and sum(count > 0 for count in counts) > 1:
            for file, count in zip(files, counts, strict=True):
                drawn = count and self._once(key_of_file, file) <= self._border
                if count and drawn == (split == "val"):
                    yield file, 0, count
            return
        border = int(sum(counts) * (1 - self.part))
        start = 0
        for file, count in zip(files, counts, strict=True):
            inside = min(max(border - start, 0), count)
            first, last = (0, inside) if split == "train" else (inside, count)
            if first < last:
                yield file, first, last
            start += count

    def _scan(self, file: Path) -> Scan:
        """One reading serves the checks, the fingerprint and the border of the splits."""
        found: Scan = self._once(scan, file)
        return found


def _part_or_files(validation: float | str | list[str]) -> tuple[float | None, list[str]]:
    """The part that is held out, or the paths of what is."""
    if isinstance(validation, str):
        return None, [validation]
    if isinstance(validation, Sequence):
        return None, list(validation)
    return float(validation), []


def key_of(content: bytes) -> int:
    """A number by which documents are drawn: of what stands in them."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, person=b"split").digest(), "big")


def key_of_file(file: Path) -> int:
    """That of a file of plain text: of the text, however its lines end."""
    digest = hashlib.blake2b(digest_size=8, person=b"split")
    for text in characters_of(file, 0, sys.maxsize):
        digest.update(text.encode())
    return int.from_bytes(digest.digest(), "big")


def held_out(keys: Sequence[int], part: float) -> int:
    """The largest key of those that are held out: a part of them, the smallest, and one at least.

    Raises:
        RequestError: none would be left for training.
    """
    ordered = np.sort(np.asarray(keys, dtype=np.uint64))
    count = max(1, round(part * len(ordered)))
    if len(ordered) < 2 or ordered[count - 1] == ordered[-1]:
        expected = f"a part that leaves some of the {len(ordered):,} documents for training"
        equal = len(np.unique(ordered)) < len(ordered)
        hint = "equal documents are in one split" if equal else None
        raise RequestError(Problem("data.validation", expected, part, hint))
    return int(ordered[count - 1])


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text that have something in them, numbered, without their ends."""
    for number, line in enumerate(lines_of(file), 1):
        if line.strip():
            yield number, line.removesuffix("\n")


def _format(file: Path) -> Format:
    found = format_of(file, without_suffix=True)
    assert found is not None  # no other file is taken
    return found


def files_of(paths: Sequence[str], where: str = "data.path", *, rows: bool = False) -> list[Path]:
    """The files that are meant, in order, each once.

    Args:
        paths: files, folders, globs.
        where: the key that states them.
        rows: they are to be tables, which is for the messages only.

    Raises:
        RequestError: with every path that can't be used.
    """
    found: dict[Path, Path] = {}
    problems: list[Problem] = []
    for path in paths:
        try:
            for file in _resolve(path, where, rows):
                found.setdefault(file.resolve(), file)
        except RequestError as error:
            problems += error.problems
    if problems:
        raise RequestError(problems)
    return list(found.values())


_FILES = {False: f"text files: {endings()}", True: f"files of rows: {endings(rows=True)}"}


def searched(paths: Sequence[str], files: Sequence[Path]) -> list[Path]:
    """The files, and each folder in which another might be found."""
    folders: set[Path] = set()
    for path in paths:
        fixed = Path(os.path.expanduser(path))
        if fixed.is_file():
            continue
        while glob.has_magic(str(fixed)):
            fixed = fixed.parent
        folders.update(Path(root) for root, _, _ in os.walk(fixed))
    return [*files, *sorted(folders)]


def _resolve(typed: str, where: str, rows: bool) -> list[Path]:
    if not typed.strip():
        raise RequestError(Problem(where, "a file, a folder or a glob", typed))
    path = Path(os.path.expanduser(typed))
    if path.is_file():
        if format_of(path, without_suffix=True) is None:
            expected = f"a file that can be read: {endings(rows=rows)}"
            expected += "" if rows else ", or plain text without a suffix"
            raise RequestError(Problem(where, expected, typed))
        if path.stat().st_size == 0:
            raise RequestError(Problem(where, "a file with text in it; it is empty", typed))
        return [path]
    if path.is_dir():
        inside = [Path(root, name) for root, _, names in os.walk(path) for name in names]
        seen = [file for file in inside if not _hidden(file.relative_to(path))]
        what = f"a folder with {_FILES[rows]}"
        return _readable(seen, typed, where, what, without_suffix=False)
    if glob.has_magic(typed):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        what = f"a glob that matches {_FILES[rows]}"
        return _readable(matches, typed, where, what, without_suffix=True)
    if is_there(path):
        raise RequestError(Problem(where, "a file, a folder or a glob", typed, odd(path)))
    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    names = [entry.name for entry in parent.iterdir()]
    hint = f"{parent} has no {path.name}"
    close = nearest(path.name, names)
    hint = f"{hint}; {close}" if close else hint
    raise RequestError(Problem(where, "a file, a folder or a glob", typed, hint))


def _readable(
    files: list[Path], typed: str, where: str, what: str, *, without_suffix: bool
) -> list[Path]:
    found = sorted(
        file
        for file in files
        if format_of(file, without_suffix=without_suffix) is not None and file.is_file()
    )
    if not found:
        raise RequestError(Problem(where, what, typed))
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
