"""Data with rows from files or the Hugging Face Hub; splits are separate files, or fractions of one
table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

from etude.data.delimited import Quoting
from etude.data.evaluation_data import EvaluationRequest
from etude.data.examples.base import ExampleData
from etude.data.examples.hub import HubRows
from etude.data.examples.source import Row, Split, assign_splits, select_split
from etude.data.formats import Format, endings, format_of
from etude.data.rows import (
    check_surrogates,
    find_unused_quoting,
    iterate_rows,
    newlines,
    read_columns,
)
from etude.data.text_files import NEEDS_VALIDATION, find_files, list_searched_paths
from etude.data.text_io import ReadOnce, sha256
from etude.errors import Checks, Problem, RequestError, nearest

SPLIT_KEYS = {
    "train": "data.path",
    "val": "data.validation",
    "test": "data.test",
    "other": "files",
}
"""The config key that sets the files of each split. For `other`, files that the user names on the
command line, the option.
"""

TrainingRows = str | list[str] | HubRows
"""Location of the training rows: files, or a data set on the Hugging Face Hub."""

SplitSource = float | str | list[str] | None
"""Source of a split's rows: a fraction of the rows in `path`, files, or the name of a split on the
Hugging Face Hub.
"""


@dataclass(kw_only=True, eq=False)
class TableData(ExampleData):
    """Base class of data with rows from JSON, CSV, TSV or Parquet files, compressed or not.

    Args:
        path: training rows: a file (JSON, CSV, TSV or Parquet), a folder, a glob, a list of these,
            or a data set on the Hugging Face Hub (`path.name=owner/name path.split=train`).
        validation: fraction of the rows in `path` for validation, or separate rows: files or, if
            `path` is on the Hugging Face Hub, the name of another split.
        test: rows for testing, set in the same way as `validation`; None means no test split.

    v and t are the fractions for validation and testing. Row i (from 0) is for testing if
    floor((i + 1) t) > floor(i t). Row j (from 0) of the remaining rows is for validation if
    floor((j + 1) w) > floor(j w), where w = v / (1 - t).

    Attributes:
        quoting: how quotation marks in TSV and CSV are read; see
            `etude.data.delimited.uses_csv_quoting`.
        extra_columns: additional columns to read.
        lists: whether rows contain lists, which CSV and TSV files cannot contain.
        distinct_columns: whether no column may be read for two purposes.
    """

    lists: ClassVar[bool] = False
    distinct_columns: ClassVar[bool] = True

    path: TrainingRows
    validation: SplitSource = 0.1
    test: SplitSource = None

    quoting: Quoting | None = field(default=None, init=False)
    extra_columns: Sequence[str] = field(default=(), init=False)

    def __post_init__(self) -> None:
        hub = self.path if isinstance(self.path, HubRows) else None
        path = self.path.split if isinstance(self.path, HubRows) else self.path
        sources = {"train": path, "val": self.validation, "test": self.test}
        self.hub = hub
        self.paths = {split: _as_list(source) for split, source in sources.items()}
        self.fractions = {split: _as_fraction(sources[split]) for split in ("val", "test")}
        super().__post_init__()
        self._read_once = ReadOnce()

    def validate(self, checks: Checks) -> None:
        path = self.path if self.hub is None else self.hub.split
        expected = "a file, a folder, a glob, or a list of these"
        checks.that(bool(self.paths["train"]), "path", path, expected)
        for key, split in (("validation", "val"), ("test", "test")):
            fraction = self.fractions[split]
            valid = fraction is None or 0 < fraction < 1
            none = NEEDS_VALIDATION if split == "val" else "for no test split, set data.test=null"
            hint = none if fraction == 0 else None
            checks.that(valid, key, fraction, "a fraction between 0 and 1, or files", hint)
        fractions = [fraction for fraction in self.fractions.values() if fraction is not None]
        expected = "a fraction that leaves rows for training"
        # invalid fractions are reported above
        if len(fractions) == 2 and all(0 < fraction < 1 for fraction in fractions):
            hint = "the sum of data.validation and data.test must be below 1"
            checks.that(sum(fractions) < 1, "test", self.fractions["test"], expected, hint)
        missing, expected = self.validation is None, "a fraction between 0 and 1, or files"
        checks.that(not missing, "validation", None, expected, NEEDS_VALIDATION)
        for (first, column), (second, other) in combinations(self.columns().items(), 2):
            if column is not None and column == other and self.distinct_columns:
                where = f"{first} and data.{second}"
                checks.that(False, where, column, "two different columns")
        super().validate(checks)

    def stated_quoting(self) -> Quoting | None:
        return self.quoting

    def read_extra_column(self, split: Split, name: str) -> None:
        self.extra_columns = [name]
        if self.hub is None:
            files = self._find_files(split if self.paths[split] else "train")
            if problems := [each for file in files for each in self._missing_columns(file)]:
                raise RequestError(problems)

    def from_files(self, asked: EvaluationRequest) -> Iterator[Row]:
        if asked.quoting is not None:
            self.quoting = asked.quoting  # type: ignore[assignment]
        if asked.by is not None:
            self.extra_columns = [asked.by]
        self.paths["other"] = list(asked.files or ())
        problems = [
            each for file in self._find_files("other") for each in self._missing_columns(file)
        ]
        if problems:
            raise RequestError(problems)
        yield from self._read_rows("other")

    def columns(self) -> dict[str, str | None]:
        """Returns a dict from config keys, such as `text`, to the names of the columns to read.

        The keys don't have the prefix `data.`. The name is None if the data has no such column.
        """
        raise NotImplementedError

    def rows(self, split: Split) -> Iterator[Row]:
        if self.paths[split]:
            rows = self._read_rows(split)
            if split != "train":
                yield from rows
                return
        elif self.fractions.get(split) is None:
            return
        else:
            rows = self._read_rows("train")
        v, t = (self.fractions[name] or 0.0 for name in ("val", "test"))
        yield from select_split(rows, split, v, t)

    def rows_by_split(self) -> Iterator[tuple[Split, Row]]:
        own: tuple[Split, ...] = ("test", "val")
        for split in own:
            if self.paths[split]:
                for row in self._read_rows(split):
                    yield split, row
        v, t = (self.fractions[name] or 0.0 for name in ("val", "test"))
        yield from assign_splits(self._read_rows("train"), v, t)

    def content_fingerprint(self) -> str:
        digest = hashlib.sha256()
        if self.hub is not None:
            digest.update(json.dumps([self.origin(), self.paths], sort_keys=True).encode())
            return digest.hexdigest()
        for split, paths in self.paths.items():
            digest.update(split.encode())
            for file in self._find_files(split) if paths else ():
                digest.update(bytes.fromhex(self._read_once(sha256, file)))
        return digest.hexdigest()

    def content_files(self) -> list[Path] | None:
        if self.hub is not None:
            return None
        files: list[Path] = []
        for split, paths in self.paths.items():
            files += list_searched_paths(paths, self._find_files(split)) if paths else []
        return files

    def settings(self) -> dict[str, Any]:
        quoting = {"quoting": self.quoting} if self.quoting else {}
        return {"columns": self.columns(), "parts": self.fractions, **quoting}

    def origin(self) -> dict[str, object]:
        return {} if self.hub is None else self.hub.origin()

    def check(self) -> None:
        if self.hub is not None:
            return  # checked by `prepare`, which may be done already
        problems: list[Problem] = []
        files: list[Path] = []
        for split, paths in self.paths.items():
            if not paths:
                continue
            try:
                for file in self._find_files(split):
                    files.append(file)
                    if self.lacks_lists(file):
                        expected = "a JSON or Parquet file (the rows contain lists)"
                        problems.append(Problem(SPLIT_KEYS[split], expected, str(file)))
                    else:
                        problems += self._missing_columns(file)
            except RequestError as error:
                problems += error.problems
        problems += find_unused_quoting(self.quoting, files)
        if problems:
            raise RequestError(problems)

    def lacks_lists(self, file: Path) -> bool:
        """Returns whether the rows contain lists and the format of `file` cannot store lists."""
        return self.lists and _detect_format(file).kind == "csv"

    def _missing_columns(self, file: Path) -> Iterator[Problem]:
        existing = self._read_once(read_columns, file, _detect_format(file), self.quoting)
        wanted = [*self.columns().items(), *(("by", name) for name in self.extra_columns)]
        for key, column in wanted:
            if column is not None and column not in existing:
                listing = f"{file} is empty"
                if existing:
                    listing = f"{file} has the columns {', '.join(existing)}"
                if _detect_format(file).kind == "csv" and any(map(_looks_like_data, existing)):
                    listing += "; the first line must name the columns"
                close = nearest(column, existing) or ""
                hint = f"{listing}; {close}" if close.startswith("did you mean") else listing
                where = key if key == "by" else f"data.{key}"
                yield Problem(where, "an existing column", column, hint)

    def _read_rows(self, split: str) -> Iterator[Row]:
        if self.hub is not None and split != "other":
            names = {key: column for key, column in self.columns().items() if column is not None}
            where = "data.path.split" if split == "train" else SPLIT_KEYS[split]
            for name in self.paths[split]:
                yield from self.hub.rows(name, where, names)
            return
        stated = [*self.columns().values(), *self.extra_columns]
        columns = list(dict.fromkeys(name for name in stated if name))
        for file in self._find_files(split):
            file_format = _detect_format(file)
            for where, values in iterate_rows(file, file_format, columns, self.quoting):
                yield Row(where, values, typed=file_format.kind != "csv")

    def _find_files(self, split: str) -> list[Path]:
        where = SPLIT_KEYS[split]
        files = find_files(self.paths[split], where, rows=True)
        without_rows = [file for file in files if not _detect_format(file).rows]
        if without_rows:
            expected = f"files that contain rows: {endings(rows=True)}"
            folder = next((each for each in self.paths[split] if Path(each).is_dir()), None)
            hint = folder and f"to choose files of a folder, use a glob such as '{folder}/*.csv'"
            raise RequestError(Problem(where, expected, str(without_rows[0]), hint))
        return files


def _looks_like_data(name: str) -> bool:
    """Returns whether the name of a column is a number or a text of several words."""
    return len(name.split()) > 3 or name.replace(".", "", 1).isdecimal()


def read_text(row: Row, column: str) -> str:
    """Returns the text in a column of a row; null is converted to an empty text.

    Raises:
        RequestError: the value is neither text nor null.
    """
    value = row.values[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RequestError(Problem(f"{row.where}, column {column}", "text or null", value))
    check_surrogates(f"{row.where}, column {column}", value)
    return newlines(value).strip()


def pair_values(column: str | None, pair: str | None) -> dict[str, Any]:
    """Returns a dict from the name of the second text's column to the second text.

    The dict is empty for data without pairs.

    Args:
        column: name of the column; None for data without pairs.
        pair: second text, None if there is none.

    Raises:
        RequestError: a second text is given for data without pairs, or is missing for data of
            pairs.
    """
    if (column is not None) != (pair is not None):
        expected = "a second text (the run was trained on text pairs)"
        if column is None:
            expected = "no second text (the run was not trained on text pairs)"
        raise RequestError(Problem("pair", expected, pair))
    return {} if column is None else {column: pair}


def _as_list(path: SplitSource) -> list[str]:
    if isinstance(path, str):
        return [path] if path.strip() else []
    return [str(each) for each in path] if isinstance(path, Sequence) else []


def _as_fraction(value: SplitSource) -> float | None:
    return float(value) if isinstance(value, float | int) else None


def _detect_format(file: Path) -> Format:
    detected = format_of(file, without_suffix=True)
    assert detected is not None  # other files are refused before
    return detected
