"""Rows of a data set on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from etude.data.examples.source import Row
from etude.data.hub import Repository, pinned
from etude.data.rows import HEAD, choose_column, row_values
from etude.errors import Checks


class HubRows:
    """Rows of a data set on the Hugging Face Hub; the value of `data.path` in a config.

    The rows of one split of the data set are the training rows; `data.validation` and `data.test`
    may name other splits. Class numbers (`ClassLabel`) are replaced by their names, and -1, which
    means no class, by null. The column name `a.b`, such as `translation.en`,
    means the entry `b` of the values in column `a`.

    Args:
        name, config, revision, streaming: see `etude.data.hub.Repository`.
        split: split of the training rows.
    """

    def __init__(
        self,
        *,
        name: str,
        config: str | None = None,
        revision: str | None = None,
        split: str = "train",
        streaming: bool = True,
    ) -> None:
        self.repository = Repository(name, config, revision, streaming, "data.path")
        self.split = split
        checks = Checks()
        self.repository.noted(checks)
        checks.that(bool(split), "split", split, "the name of a split")
        checks.done()

    @classmethod
    def pinned(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the arguments with `revision` replaced by the commit to which it refers now.

        See `etude.config.pinning`.
        """
        return pinned(arguments)

    def origin(self) -> dict[str, object]:
        """Returns a dict with the repository, commit, config and split of the rows."""
        names = {"repository": self.repository.name, "commit": self.repository.commit}
        return {**names, "config": self.repository.config, "split": self.split}

    def rows(self, split: str, key: str, columns: Mapping[str, str]) -> Iterator[Row]:
        """Yields the rows of a split, with the values of the given columns.

        `values` of a row is a dict from column names to values.

        Args:
            key: config key that sets the split, for error messages.
            columns: the columns to read: a dict from a config key without the prefix `data.`, such
                as `text`, to the column name that is the value of this key.

        Raises:
            RequestError: the rows can't be read, or lack a column.
        """
        with self.repository.explained():
            rows = self.repository.rows(split, key)
            column_paths = _column_paths(rows)
            for stated, column in columns.items():
                available = dict.fromkeys(column_paths, True)
                choose_column(available, column, self.repository.name, f"data.{stated}")
            selected = {name: column_paths[name] for name in columns.values()}
            names = {name: self._class_names(rows, name) for name in selected}
            records = row_values(rows, list(dict.fromkeys(top for top, _ in selected.values())))
            for number, each in enumerate(records, 1):
                where = f"{self.repository.name}, split {split}, row {number}"
                values = {
                    name: _apply_names(_nested_value(each[top], key), names[name])
                    for name, (top, key) in selected.items()
                }
                yield Row(where, values)

    def names(self, column: str) -> list[str] | None:
        """Returns the class names of a column of labels, in the order of the class numbers.

        Returns None if the data set declares no class names for the column.
        """
        with self.repository.explained():
            return self._class_names(self.repository.rows(self.split, "data.path.split"), column)

    def _class_names(self, rows: Any, column: str) -> list[str] | None:
        feature = (rows.features or {}).get(column)
        feature = getattr(feature, "feature", feature)  # the element type of a list
        feature = feature[0] if isinstance(feature, list) else feature
        names = getattr(feature, "names", None)
        return None if names is None else list(names)


def _column_paths(rows: Any) -> dict[str, tuple[str, str]]:
    """Returns a dict that maps each column name that a config can use to a pair (column, key).

    The value for the name is the entry `key` of the column's value or, if `key` is empty, the
    column's value itself. For example, `translation.en` is mapped to `("translation", "en")`.

    Args:
        rows: split of a data set, as loaded by the library `datasets`.
    """
    columns: dict[str, tuple[str, str]] = {}
    nested: dict[str, tuple[str, str]] = {}
    for row in [rows.features] if rows.features else islice(rows, HEAD):
        for name, value in row.items():
            columns[name] = (name, "")
            keys = list(value) if isinstance(value, dict) else getattr(value, "languages", ())
            for key in keys:  # the languages of a `Translation`
                nested[f"{name}.{key}"] = (name, str(key))
    return nested | columns


def _nested_value(value: Any, key: str) -> Any:
    return value.get(key) if key and isinstance(value, dict) else value


def _apply_names(value: Any, names: list[str] | None) -> Any:
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [_apply_names(each, names) for each in value]
    return names[value] if 0 <= value < len(names) else None
