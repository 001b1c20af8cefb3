"""Corpus from your own files: plain text, or rows in JSON, CSV or Parquet, also compressed."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import re
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from etude.counts import counted
from etude.data.formats import Format, endings, format_of
from etude.data.passages import cut
from etude.data.rows import (
    READING,
    choose_column,
    find_unused_quoting,
    iterate_texts,
    iterate_values,
    newlines,
    read_columns,
    split_rows,
)
from etude.data.splits import SPLITS, Document, Passage, Split
from etude.data.text import TextData
from etude.data.text_io import ReadOnce, Scan, characters_of, lines_of, scan, sha256
from etude.errors import Checks, Problem, RequestError, nearest
from etude.records.opening import describe_special_file, path_exists

log = logging.getLogger("etude.data")

NEEDS_VALIDATION = "every run needs validation data; for a small part, set data.validation=0.01"
"""Hint for a config without validation data."""

KEYS = {"train": "data.path", "val": "data.validation", "test": "data.test"}
"""The config key that names the files of each split."""


@dataclass(kw_only=True, eq=False)
class TextFiles(TextData):
    """Corpus stored in files: plain text (each file a document) or tables (each row a document).

    *Plain text* (`.txt`, `.md`, no suffix). The text is the concatenation of the files: the files
    of a folder or a glob sorted by path, a list in its own order; duplicates are read once. The
    first `int(n * (1 - validation))` of the n characters are for training, so the file that
    contains this position is in both splits. With one file, this is the split of nanoGPT's
    Shakespeare.

    *Rows* (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.parquet`) are streamed. Documents are
    never cut: document i of the corpus, from 0, is held out if floor((i + 1) v) > floor(i v) with
    v = `validation`; with 0.1, every tenth document is. Rows without text (null, empty, or no such
    key) are skipped. In CSV, the first line names the columns, and every cell is read as text
    unchanged (`NA` too; an empty cell is the empty string).

    All formats but Parquet, which has its own compression, may be compressed, with `.gz`, `.bz2`,
    `.xz` or `.zst` after the suffix. Text is UTF-8. A byte order mark is dropped and every line
    end is read as a newline, so a file saved on Windows gives the same tokens as on Unix.

    Args:
        path: a file, a folder (its files in these formats at any depth, except hidden files), a
            glob (`**` included), or a list of these. Plain text and rows can't be mixed.
        validation: the fraction of the characters or rows that is held out, between 0 and 1; or
            the validation files, selected as in `path`, so that all of `path` is used for training.
        test: the files of the test split, selected as in `path`; None for no test split.
        split: how held-out documents are selected. `regular` holds out the end of plain text, or
            every n-th row, as described above. `keyed` selects by a hash of the content of each
            document (file, row or line), so equal documents are in the same split, and most
            documents stay in their split when others are added; at least one document is held out.
            Of a single plain text file, `keyed` also holds out the end.
        column: for rows, the name of the text column; None selects the column `text`, or else the
            only column with text.
        lines: whether each line of plain text is a document, and is held out like a row; blank
            lines are skipped.
        quoting: `csv` if quotation marks can enclose a cell, `none` if they are regular characters;
            None detects this in TSV files, and means `csv` for CSV files.
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
        self.fraction, self.validation_paths = _parse_validation(self.validation)
        self.test_paths = [self.test] if isinstance(self.test, str) else list(self.test or ())
        super().__post_init__()
        self._once = ReadOnce()

    def validate(self, checks: Checks) -> None:
        is_stated = bool(self.paths) and all(self.paths)
        checks.that(is_stated, "path", self.path, "a file, a folder, a glob, or a list of these")
        is_valid = all(self.validation_paths) if self.fraction is None else 0 < self.fraction < 1
        expected = "a fraction between 0 and 1, or paths of validation files"
        hint = NEEDS_VALIDATION if self.fraction == 0 else None
        checks.that(is_valid, "validation", self.validation, expected, hint)
        has_valid_test = self.test is None or (bool(self.test_paths) and all(self.test_paths))
        checks.that(has_valid_test, "test", self.test, "null, or paths of test files")
        is_known = self.split in ("regular", "keyed")
        checks.that(is_known, "split", self.split, "regular or keyed")
        has_valid_column = self.column is None or bool(self.column)
        checks.that(has_valid_column, "column", self.column, "a column name")
        super().validate(checks)

    @property
    def splits(self) -> tuple[Split, ...]:
        return (*SPLITS, "test") if self.test_paths else SPLITS

    def files(self) -> list[Path]:
        """Returns the training files in order, then the validation files, then the test files.

        Raises:
            RequestError: a path cannot be read, or a file is in two splits. The message lists all
                such paths and files.
        """
        key_by_file: dict[Path, str] = {}
        files: list[Path] = []
        problems: list[Problem] = []
        for split in ("train", "val", "test"):
            key = KEYS[split]
            for file in self._own(split):
                other = key_by_file.setdefault(file.resolve(), key)
                if other != key:
                    problems.append(Problem(key, f"a file that is not also in {other}", str(file)))
                files.append(file)
        if problems:
            raise RequestError(problems)
        return files

    def _own(self, split: Split) -> list[Path]:
        """Returns the files that the config names for a split; [] if it names none."""
        paths = {"train": self.paths, "val": self.validation_paths, "test": self.test_paths}[split]
        return find_files(paths, KEYS[split]) if paths else []

    def _files_of(self, split: Split) -> list[Path]:
        """Returns the files that contain a split: its own, or else the training files."""
        return self._own(split) or self._own("train")

    def check(self) -> None:
        files = self.files()
        formats = [_format(file) for file in files]
        if len({form.rows for form in formats}) > 1:
            first = {
                form.rows: file for file, form in reversed([*zip(files, formats, strict=True)])
            }
            expected = "files of plain text or files with rows, not both"
            hint = (
                f"{first[False]} is plain text, {first[True]} has rows; select files of one format "
                "with a glob such as data/*.jsonl"
            )
            raise RequestError(Problem("data.path", expected, self.paths, hint))
        if quoting_problems := find_unused_quoting(self.quoting, files):
            raise RequestError(quoting_problems)
        if self._has_rows():
            if self.lines:
                expected = "false (each row is already a document)"
                raise RequestError(Problem("data.lines", expected, True))
            self._check_rows()
            return
        if self.column is not None:
            expected = "null (plain text has no columns)"
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
            raise RequestError(
                Problem("data.path", "files with text (all files are empty)", self.paths)
            )
        trained = {self._scan(file).sha256: file for file in self._own("train")}
        for split in ("val", "test"):
            for file in self._own(split):
                if (other := trained.get(self._scan(file).sha256)) is not None:
                    log.warning(
                        "%s: %s has the same content as %s, which is a training file",
                        KEYS[split],
                        file,
                        other,
                    )

    def content_fingerprint(self) -> str:
        digest = hashlib.sha256()
        rows = self._has_rows()
        for split, mark in (("train", b""), ("val", b"validation"), ("test", b"test")):
            files = self._own(split)  # type: ignore[arg-type]
            digest.update(mark if files else b"")
            for file in files:
                file_hash = self._once(sha256, file) if rows else self._scan(file).sha256
                digest.update(bytes.fromhex(file_hash))
        if rows:
            digest.update(self._column().encode())
        return digest.hexdigest()

    def content_files(self) -> list[Path] | None:
        return list_searched_paths(
            [*self.paths, *self.validation_paths, *self.test_paths], self.files()
        )

    def split_settings(self) -> dict[str, object]:
        lines = {"lines": True} if self.lines else {}
        quoting = {"quoting": self.quoting} if self.quoting else {}
        reading = {"reading": READING} if self._has_rows() else {}
        test = {"test": "files"} if self.test_paths else {}
        keyed = {"split": "keyed"} if self.split == "keyed" else {}
        return {
            "corpus": "text_files",
            "validation": "files" if self.fraction is None else self.fraction,
            **lines,
            **quoting,
            **reading,
            **test,
            **keyed,
        }

    def documents(self, split: Split) -> Iterator[str]:
        return (text for _, text in self.sourced(split))

    def sourced(self, split: Split) -> Iterator[Document]:
        if self._has_rows() or self.lines:
            yield from self._documents_in(split)
            return
        for file, first, last in self._spans(split):
            where = f"{file}, from character {first:,}" if first else str(file)
            yield where, "".join(characters_of(file, first, last))

    def passages(self, split: Split) -> Iterator[Passage]:
        if self._has_rows() or self.lines:
            yield from super().passages(split)
            return
        for number, (file, first, last) in enumerate(self._spans(split)):
            for text in cut(characters_of(file, first, last)):
                yield number, text

    def _all_documents(self, split: Split) -> Iterator[Document]:
        """Yields all rows or lines of the files that contain a split: pairs (position, text).

        If the config names no files for the split, these are the training files; they then contain
        the rows of another split, too.
        """
        if self._has_rows():
            for where, text in iterate_texts(self._values(split), tell=split == "val"):
                yield where, newlines(text)
            return
        for file in self._files_of(split):
            for number, line in _lines(file):
                yield f"{file}, line {number}", line

    def _documents_in(self, split: Split) -> Iterator[Document]:
        """Yields the rows or lines that belong to a split, as documents."""
        documents = self._all_documents(split)
        if split == "test" or self.fraction is None:
            yield from documents
        elif self.split == "regular":
            yield from split_rows(documents, held_out=split == "val", validation=self.fraction)
        else:
            largest = self._largest_held_out
            for where, text in documents:
                if (hash_text(text.encode()) <= largest) == (split == "val"):
                    yield where, text

    @cached_property
    def _largest_held_out(self) -> int:
        """The largest hash of a document that `split=keyed` holds out for validation."""
        assert self.fraction is not None
        if self._has_rows() or self.lines:
            keys = array(
                "Q", (hash_text(text.encode()) for _, text in self._all_documents("train"))
            )
        else:
            files = [file for file in self._own("train") if self._scan(file).characters]
            keys = array("Q", (self._once(hash_file, file) for file in files))
        return find_largest_held_out(keys, self.fraction)

    def _has_rows(self) -> bool:
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
            if columns := self._columns(file):
                choose_column(columns, column, str(file))

    def _column(self) -> str:
        """Returns the name of the column to read, decided by the first file that has rows."""
        for file in self.files():
            if columns := self._columns(file):
                return choose_column(columns, self.column, str(file))
        raise RequestError(Problem("data.path", "files with rows (no file has rows)", self.paths))

    def _columns(self, file: Path) -> dict[str, bool]:
        if file.stat().st_size == 0:
            return {}
        columns: dict[str, bool] = self._once(read_columns, file, _format(file), self.quoting)
        return columns

    def _values(self, split: Split) -> Iterator[tuple[str, Any]]:
        column = self._column()
        for file in self._files_of(split):
            if not self._columns(file):
                continue
            for where, value in iterate_values(file, _format(file), column, self.quoting):
                yield f"{where}, column {column}", value

    def _spans(self, split: Split) -> Iterator[tuple[Path, int, int]]:
        """Yields the text of a split as triples (file, first character, character after the last).

        Characters are counted from 0 in each file.

        Files that contain no text of the split are left out.
        """
        files = self._files_of(split)
        counts = [self._scan(file).characters for file in files]
        if split == "test" or self.fraction is None:
            yield from ((file, 0, n) for file, n in zip(files, counts, strict=True) if n)
            return
        if self.split == "keyed" and sum(count > 0 for count in counts) > 1:
            for file, count in zip(files, counts, strict=True):
                is_held_out = count and self._once(hash_file, file) <= self._largest_held_out
                if count and is_held_out == (split == "val"):
                    yield file, 0, count
            return
        boundary = int(sum(counts) * (1 - self.fraction))
        start = 0
        for file, count in zip(files, counts, strict=True):
            in_training = min(max(boundary - start, 0), count)
            first, last = (0, in_training) if split == "train" else (in_training, count)
            if first < last:
                yield file, first, last
            start += count

    def _scan(self, file: Path) -> Scan:
        """Returns the hash and the length of a file, which is read again only if it changes."""
        result: Scan = self._once(scan, file)
        return result


def _parse_validation(validation: float | str | list[str]) -> tuple[float | None, list[str]]:
    """Returns (held-out fraction, []) or (None, paths of the validation files)."""
    if isinstance(validation, str):
        return None, [validation]
    if isinstance(validation, Sequence):
        return None, list(validation)
    return float(validation), []


def hash_text(content: bytes) -> int:
    """Returns a 64-bit hash of a document's UTF-8 text, which assigns the document to a split."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, person=b"split").digest(), "big")


def hash_file(file: Path) -> int:
    """Returns the 64-bit hash that assigns a plain text file to a split.

    Every kind of line end is hashed as a newline.
    """
    digest = hashlib.blake2b(digest_size=8, person=b"split")
    for text in characters_of(file, 0, sys.maxsize):
        digest.update(text.encode())
    return int.from_bytes(digest.digest(), "big")


def find_largest_held_out(keys: Sequence[int], fraction: float) -> int:
    """Returns the largest hash of a document that is held out for validation.

    The documents with the smallest hashes are held out: the given fraction of all, at least one.

    Args:
        keys: hash of each document.
        fraction: the held-out fraction.

    Raises:
        RequestError: if no document would be left for training.
    """
    ordered = np.sort(np.asarray(keys, dtype=np.uint64))
    count = max(1, round(fraction * len(ordered)))
    if len(ordered) < 2 or ordered[count - 1] == ordered[-1]:
        documents = counted(len(ordered), "document")
        expected = f"a fraction that leaves text for training, out of {documents}"
        has_duplicates = len(np.unique(ordered)) < len(ordered)
        hint = None
        if has_duplicates:
            hint = "documents with equal text are in the same split; set a smaller fraction or add "
            hint += "documents with other texts"
        raise RequestError(Problem("data.validation", expected, fraction, hint))
    return int(ordered[count - 1])


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yields the non-blank lines of a plain text file, as pairs (number, line without line end).

    The number is counted from 1 over all lines, blank ones included.
    """
    for number, line in enumerate(lines_of(file), 1):
        if line.strip():
            yield number, line.removesuffix("\n")


def _format(file: Path) -> Format:
    form = format_of(file, without_suffix=True)
    assert form is not None  # other files were rejected before
    return form


def find_files(paths: Sequence[str], where: str = "data.path", *, rows: bool = False) -> list[Path]:
    """Returns the files that the paths select, without duplicates.

    They are in the order of `paths`; the files of a folder or a glob are sorted by path.

    Args:
        paths: files, folders, globs.
        where: the config key of the paths.
        rows: whether messages ask for files with rows; the selected files are the same.

    Raises:
        RequestError: contains a problem for every path that can't be used.
    """
    files: dict[Path, Path] = {}
    problems: list[Problem] = []
    for path in paths:
        try:
            for file in _resolve(path, where, rows):
                files.setdefault(file.resolve(), file)
        except RequestError as error:
            problems += error.problems
    if problems:
        raise RequestError(problems)
    return list(files.values())


_FILES = {False: f"text files: {endings()}", True: f"files with rows: {endings(rows=True)}"}


def list_searched_paths(paths: Sequence[str], files: Sequence[Path]) -> list[Path]:
    """Returns `files`, followed by each folder that was searched for them.

    These are the folders in `paths` and the folders in which globs begin, with all subfolders.

    Args:
        paths: the files, folders and globs of the config.
        files: the files that `paths` select.
    """
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
            expected = f"a file in a supported format: {endings(rows=rows)}"
            expected += "" if rows else ", or plain text without a suffix"
            raise RequestError(Problem(where, expected, typed))
        if path.stat().st_size == 0:
            raise RequestError(Problem(where, "a file with content (the file is empty)", typed))
        return [path]
    if path.is_dir():
        files = [Path(root, name) for root, _, names in os.walk(path) for name in names]
        visible = [file for file in files if not _hidden(file.relative_to(path))]
        expected = f"a folder with {_FILES[rows]}"
        return _readable(visible, typed, where, expected, without_suffix=False)
    if glob.has_magic(typed):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        expected = f"a glob that matches {_FILES[rows]}"
        return _readable(matches, typed, where, expected, without_suffix=True)
    if path_exists(path):
        raise RequestError(
            Problem(where, "a file, a folder or a glob", typed, describe_special_file(path))
        )
    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    names = [entry.name for entry in parent.iterdir()]
    hint = f"{parent} does not contain {path.name}"
    close = nearest(path.name, names)
    percent = re.fullmatch(r"(\d{1,2}(?:\.\d+)?|\.\d+) ?[%％]", typed)
    if percent and float(percent[1]) > 0 and where in ("data.validation", "data.test"):
        close = f"for a fraction, use {float(percent[1]) / 100:g}"
    hint = f"{hint}; {close}" if close else hint
    raise RequestError(Problem(where, "a file, a folder or a glob", typed, hint))


def _readable(
    files: list[Path], typed: str, where: str, expected: str, *, without_suffix: bool
) -> list[Path]:
    readable = sorted(
        file
        for file in files
        if format_of(file, without_suffix=without_suffix) is not None and file.is_file()
    )
    if not readable:
        raise RequestError(Problem(where, expected, typed))
    return readable


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
