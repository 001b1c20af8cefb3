"""Rows of a data set on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from etude.data.examples.source import Row
from etude.data.hub import Repository, pinned
from etude.data.rows import HEAD, choose_column, row_values
from etude.errors import Checks


class HubRows:
    """What `data.path` is where rows come from a hub; a split of theirs is one of ours.

    Numbers that the data set names (`ClassLabel`) become these names, and -1, which says that there
    is none, null. A column `a.b` is the part `b` of what stands in `a`, as in `translation.en`.

    Args:
        name, config, revision, streaming: see `etude.data.hub.Repository`.
        split: of the training rows.
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
        checks.that(bool(split), "split", split, "a split's name")
        checks.done()

    @classmethod
    def pinned(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The commit that `revision` stands for now (see `etude.config.pins`)."""
        return pinned(arguments)

    def origin(self) -> dict[str, object]:
        """What is read; the content of a commit is fixed."""
        names = {"repository": self.repository.name, "commit": self.repository.commit}
        return {**names, "config": self.repository.config, "split": self.split}

    def rows(self, split: str, key: str, columns: Mapping[str, str]) -> Iterator[Row]:
        """The rows of a split, with the values of some columns.

        Args:
            key: the config's, that says which split.
            columns: their names, by the keys that state them.

        Raises:
            RequestError: they can't be read, or lack a column.
        """
        with self.repository.explained():
            rows = self.repository.rows(split, key)
            found = _column_paths(rows)
            for stated, column in columns.items():
                have = dict.fromkeys(found, True)
                choose_column(have, column, self.repository.name, f"data.{stated}")
            places = {name: found[name] for name in columns.values()}
            names = {name: self._class_names(rows, name) for name in places}
            values = row_values(rows, list(dict.fromkeys(top for top, _ in places.values())))
            for number, each in enumerate(values, 1):
                where = f"{self.repository.name}, split {split}, row {number}"
                picked = {
                    name: _apply_names(_nested_value(each[top], part), names[name])
                    for name, (top, part) in places.items()
                }
                yield Row(where, picked)

    def names(self, column: str) -> list[str] | None:
        """What the data set calls the numbers in a column, in order; None if it doesn't."""
        with self.repository.explained():
            return self._class_names(self.repository.rows(self.split, "data.path.split"), column)

    def _class_names(self, rows: Any, column: str) -> list[str] | None:
        feature = (rows.features or {}).get(column)
        feature = getattr(feature, "feature", feature)  # of each in a list
        feature = feature[0] if isinstance(feature, list) else feature
        found = getattr(feature, "names", None)
        return None if found is None else list(found)


def _column_paths(rows: Any) -> dict[str, tuple[str, str]]:
    """For each column that can be named, the one that it is, or that it is a part of, and which."""
    found: dict[str, tuple[str, str]] = {}
    parts: dict[str, tuple[str, str]] = {}
    for row in [rows.features] if rows.features else islice(rows, HEAD):
        for name, value in row.items():
            found[name] = (name, "")
            inside = list(value) if isinstance(value, dict) else getattr(value, "languages", ())
            for part in inside:  # the languages of a `Translation`
                parts[f"{name}.{part}"] = (name, str(part))
    return parts | found


def _nested_value(value: Any, part: str) -> Any:
    return value.get(part) if part and isinstance(value, dict) else value


def _apply_names(value: Any, names: list[str] | None) -> Any:
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [_apply_names(each, names) for each in value]
    return names[value] if 0 <= value < len(names) else None
