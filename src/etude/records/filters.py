"""Filters that select runs: `optimizer.lr>1e-3`, `model.position=rotary`, `label~rotary`."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from etude.errors import Problem, RequestError, nearest_of
from etude.records.record import STATUSES, Record
from etude.records.record_fields import MISSING, ClassName, field_value
from etude.records.times import TIME_KEYS, parse_time, to_local

_OPERATORS = ("<=", ">=", "!=", "!~", "==", "=", "<", ">", "~")
_FILTER = re.compile(
    rf"\s*([^\s<>=!~]+)\s*({'|'.join(map(re.escape, _OPERATORS))})\s*(.*?)\s*", re.DOTALL
)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_LITERALS = {
    "true": True, "false": False, "null": None, "True": True, "False": False, "None": None,
}  # fmt: skip


@dataclass(frozen=True)
class Filter:
    """Condition on one value of a run.

    Attributes:
        key: key of the value; `etude.records.record_fields` defines the keys.
        operator: `=`, `!=`, `<`, `<=`, `>`, `>=`, `~` (contains, ignoring case) or `!~`
            (does not contain).
        value: the text after the operator, without surrounding spaces. For keys of times, such as
            `started`, it is a local time or its beginning: `2026-01-31` means the whole day.
    """

    key: str
    operator: str
    value: str

    def matches(self, record: Record) -> bool:
        """Returns whether the run fulfils the condition."""
        return self.accepts(field_value(record, self.key))

    def accepts(self, value: Any) -> bool:
        """Returns whether a value fulfils the condition.

        Missing values are `MISSING` or None.

        A missing value is equal only to `null`. With `<`, `<=`, `>` and `>=`, no missing value
        fulfils the condition; numbers are compared with numbers, and texts, such as times, with
        texts. A number and a text, compared with each other, never fulfil these operators. A list
        fulfils `=` also if one of its items is equal, and `~` if one of its items contains the
        text. `!=` and `!~` are the negations of `=` and `~`, also for missing values.
        """
        if self.key in TIME_KEYS and isinstance(value, str):
            value = to_local(value)
            value = value if "~" in self.operator else value[: len(self.value)]
        if self.operator in _ORDER:
            return self._is_ordered(None if value is MISSING else value)
        fulfilled = self._is_contained(value) if "~" in self.operator else self._is_equal(value)
        return fulfilled is not self.operator.startswith("!")

    def _is_ordered(self, value: Any) -> bool:
        wanted = parse_value(self.value)
        compare = _ORDER[self.operator]
        if _is_number(value) and _is_number(wanted):
            return compare(value, wanted)
        return isinstance(value, str) and compare(value, self.value)

    def _is_equal(self, value: Any) -> bool:
        wanted = parse_value(self.value)
        if value is MISSING or value is None:
            return wanted is None
        if isinstance(value, ClassName):
            return _normalized(value) == _normalized(self.value)
        if isinstance(value, str):
            return value == self.value
        if isinstance(value, list):
            return value == wanted or self.value in value or wanted in value
        if isinstance(value, bool) or isinstance(wanted, bool):
            return value is wanted
        return bool(value == wanted)

    def _is_contained(self, value: Any) -> bool:
        items = value if isinstance(value, list) else [value]
        texts = (str(item) for item in items if item is not MISSING and item is not None)
        return any(self.value.casefold() in item.casefold() for item in texts)

    def __str__(self) -> str:
        separator = " " if self.value.startswith(("=", "~")) else ""  # `a= =b` is no `a==b`
        return f"{self.key}{self.operator}{separator}{self.value}"


def is_filter(word: str) -> bool:
    """Returns whether a command-line argument contains an operator, and therefore is a filter."""
    return any(character in word for character in "<>=!~")


def parse_filter(text: str) -> Filter:
    """Returns the filter that a text such as `seed=1` describes; `==` is the same as `=`.

    Raises:
        RequestError: the text is not a filter, or names a status that does not exist.
    """
    match = _FILTER.fullmatch(text)
    if match is None:
        expected = "KEY OPERATOR VALUE, with OPERATOR one of = != < <= > >= ~ !~"
        raise RequestError(Problem("FILTER", expected, text, 'for example "optimizer.lr>1e-3"'))
    key, sign, value = match.groups()
    if key == "status" and sign in ("=", "==", "!="):
        check_status(value)
    if key in TIME_KEYS and "~" not in sign:
        value = parse_time(value)
    elif sign[0] in "<>" and not _is_number(parse_value(value)):
        raise RequestError(Problem("FILTER", f"a number after {key}{sign}", text))
    return Filter(key, "=" if sign == "==" else sign, value)


def check_status(value: str) -> None:
    """Checks that a value is a status of runs.

    Raises:
        RequestError: the value is not a status; the message suggests the nearest status.
    """
    if value not in STATUSES:
        expected = "one of " + ", ".join(STATUSES)
        raise RequestError(Problem("status", expected, value, nearest_of(value, STATUSES)))


def parse_value(text: str) -> Any:
    """Converts `true`, `false`, `null`, a number, or a list in JSON such as `[1, 2]` to its value.

    `null` becomes None. Other texts are returned unchanged.
    """
    if text in _LITERALS:
        return _LITERALS[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if text.startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _normalized(name: str) -> str:
    return name.replace("_", "").casefold()
