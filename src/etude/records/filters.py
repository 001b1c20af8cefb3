"""Conditions on runs, as typed: `optimizer.lr>1e-3`, `model.position=rotary`, `label~rotary`."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from etude.errors import Problem, RequestError, nearest
from etude.records.facts import MISSING, ClassName, fact
from etude.records.record import STATUSES, Record

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
_WORDS = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class Filter:
    """One condition.

    Attributes:
        key: of `etude.records.facts`.
        operator: `=`, `!=`, `<`, `<=`, `>`, `>=`, `~` (contains, in any case) or `!~`.
        value: as typed, without spaces around it.
    """

    key: str
    operator: str
    value: str

    def matches(self, record: Record) -> bool:
        """Whether the run fulfils the condition."""
        return self.accepts(fact(record, self.key))

    def accepts(self, found: Any) -> bool:
        """Whether a value does. What a run lacks equals `null` only, and has no order."""
        if self.operator in _ORDER:
            return self._ordered(None if found is MISSING else found)
        holds = self._contained(found) if "~" in self.operator else self._equal(found)
        return holds is not self.operator.startswith("!")

    def _ordered(self, found: Any) -> bool:
        wanted = plain(self.value)
        compare = _ORDER[self.operator]
        if _is_number(found) and _is_number(wanted):
            return compare(found, wanted)
        return isinstance(found, str) and compare(found, self.value)

    def _equal(self, found: Any) -> bool:
        wanted = plain(self.value)
        if found is MISSING or found is None:
            return wanted is None
        if isinstance(found, ClassName):
            return _squashed(found) == _squashed(self.value)
        if isinstance(found, str):
            return found == self.value
        if isinstance(found, list):
            return found == wanted or self.value in found or wanted in found
        if isinstance(found, bool) or isinstance(wanted, bool):
            return found is wanted
        return bool(found == wanted)

    def _contained(self, found: Any) -> bool:
        items = found if isinstance(found, list) else [found]
        said = (str(item) for item in items if item is not MISSING and item is not None)
        return any(self.value.casefold() in item.casefold() for item in said)

    def __str__(self) -> str:
        apart = " " if self.value.startswith(("=", "~")) else ""  # `a= =b` is no `a==b`
        return f"{self.key}{self.operator}{apart}{self.value}"


def is_filter(word: str) -> bool:
    """Whether a word is meant as a condition: it has an operator in it."""
    return any(character in word for character in "<>=!~")


def parse(text: str) -> Filter:
    """The condition that `text` states; `==` is `=`.

    Raises:
        RequestError: it states none, or a status that does not exist.
    """
    found = _FILTER.fullmatch(text)
    if found is None:
        expected = "KEY, one of = != < <= > >= ~ !~, and a value"
        raise RequestError(Problem("FILTER", expected, text, 'for example "optimizer.lr>1e-3"'))
    key, sign, value = found.groups()
    if key == "status" and sign in ("=", "==", "!="):
        must_be_status(value)
    return Filter(key, "=" if sign == "==" else sign, value)


def must_be_status(value: str) -> None:
    """Refuses what is no status.

    Raises:
        RequestError: with the nearest that is one.
    """
    if value not in STATUSES:
        expected = "one of " + ", ".join(STATUSES)
        raise RequestError(Problem("status", expected, value, nearest(value, STATUSES)))


def plain(text: str) -> Any:
    """The value that was meant: true, false, null, a number, a list, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            pass
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _squashed(name: str) -> str:
    return name.replace("_", "").casefold()
