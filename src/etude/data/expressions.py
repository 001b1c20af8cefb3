r"""Which regular expressions a tokenizer may have: those that take linear time to match.

A search tries an expression at one place of a text after another, and at each it tries one
alternative after another. An attempt that fails costs as much as it has looked at. So two things
are checked:

- What an attempt costs besides its endless repetitions (`*`, `+`, `{2,}`) is at most `COST` steps.
- What an endless repetition takes is part of the match: all that follows it may be empty. Else, as
  in `\s*[\r\n]+`, it repeats one class and a later alternative takes that class by itself, as
  `\s+` does, with only alternatives of the same kind between them. So after a long attempt that
  fails, the search goes on behind what was looked at.

This holds for what GPT-2, Llama, Qwen, DeepSeek, GPT-4o and others split with. The few alternatives
of released tokenizers for which it does not hold are listed in `RELEASED`; they cost the square of
the length of a row of spaces or digits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

COST = 512
LONGEST = 4096  # characters
MOST = 256  # repetitions by number
DEEPEST = 8  # groups within each other
RELEASED = (r"\s+$", "^▁+$", " +▁", r"\d{1,3}(?=(?:\d{3})*\b)")

_ROW_OF_SPACES = r"\s+(?!\S)"
"""It matches all of a row or all but the last one."""

_ENDLESS = (
    r"an endless repetition only where all that follows may be empty, or of one class that a later "
    r"alternative takes by itself, as \s*[\r\n]+|\s+ does"
)
_ESCAPED = "sSwWdDhHbBAzZnrtfv"
_PLACES = ("^", "$", r"\b", r"\B", r"\A", r"\z", r"\Z")
_GROUP = re.compile(r"\((?:\?(?:[im]*:|=|!|<=|<!))?")
_OPTIONS = re.compile(r"\(\?[im]+\)")
_ESCAPE = re.compile(
    r"\\(?:[pP]\{\^?[\w ]+\}|x\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|.)", re.DOTALL
)
_REPEAT = re.compile(r"[*+?][?+]?|\{([0-9]+)(,?)([0-9]*)\}|\{,([0-9]+)\}")


class _Refused(Exception):
    """Says what was expected."""


@dataclass(frozen=True)
class _Item:
    """A part of an alternative and how often it stands there.

    Attributes:
        text: as it is written, without the repetition.
        inner: the alternatives of a group; empty for a letter or class.
        takes: whether it takes what it matches: `^`, `$` and what is only looked at do not.
        low, high: repetitions; no `high` for an endless one.
        lazy: as few as will do.
    """

    text: str
    inner: tuple[tuple[_Item, ...], ...] = ()
    takes: bool = True
    low: int = 1
    high: int | None = 1
    lazy: bool = False

    @property
    def may_fail(self) -> bool:
        return self.low > 0 and (
            not self.takes or not self.inner or all(map(_may_fail, self.inner))
        )

    @property
    def shortest(self) -> int:
        """The fewest letters that it takes."""
        once = min(map(_shortest, self.inner)) if self.inner else 1
        return self.low * once if self.takes else 0


_NOTHING = _Item("", takes=False)
_Alternative = tuple[_Item, ...]


def bounded(pattern: str) -> str | None:
    """Says what is expected of a regular expression that is not accepted; None if it is."""
    try:
        alternatives = _parsed(pattern)
        _check(alternatives)
    except _Refused as refused:
        return str(refused)
    return None


def shortest_match(pattern: str) -> int:
    """The fewest letters that an expression matches; 0 for one that is not accepted."""
    try:
        return min(_shortest(each) for _, each in _parsed(pattern))
    except _Refused:
        return 0


def _may_fail(items: _Alternative) -> bool:
    return any(item.may_fail for item in items)


def _shortest(items: _Alternative) -> int:
    return sum(item.shortest for item in items)


def _check(alternatives: Sequence[tuple[str, _Alternative]]) -> None:
    costs = [
        _Cost(1, 1, []) if text in RELEASED else _cost(items, False) for text, items in alternatives
    ]
    if sum(cost.steps for cost in costs) > COST:
        raise _Refused(
            f"an expression that takes at most {COST} steps at a place: with fewer choices and "
            "repetitions by number"
        )
    loops = [cost.loops for cost in costs]
    for number, (text, items) in enumerate(alternatives):
        if not loops[number] or (text == _ROW_OF_SPACES):
            continue
        (loop, *others) = loops[number]
        if others or loop.inner or loop not in items:
            raise _Refused(_ENDLESS)
        for later in range(number + 1, len(alternatives)):
            if _takes_all(*alternatives[later], loops[later], loop.text):
                break
            if [each.text for each in loops[later]] != [loop.text]:
                raise _Refused(_ENDLESS)
        else:
            raise _Refused(_ENDLESS)


def _takes_all(text: str, items: _Alternative, loops: list[_Item], repeated: str) -> bool:
    """Whether an alternative matches a row of letters of a class, however long, as a whole."""
    if (text, repeated) == (_ROW_OF_SPACES, r"\s"):
        return True
    first = next((n for n, item in enumerate(items) if item.may_fail), len(items))
    if loops or first == len(items) or _may_fail(items[first + 1 :]):
        return False
    item = items[first]
    return item.text == repeated and item.high is None and item.low == 1 and not item.lazy


@dataclass(frozen=True)
class _Cost:
    """Of an attempt to match.

    Attributes:
        steps: at most so many, each endless repetition counted once.
        ways: in how many it may match.
        loops: the endless repetitions that are tried at each length if what follows fails.
    """

    steps: int
    ways: int
    loops: list[_Item]


def _cost(items: _Alternative, after: bool) -> _Cost:
    """Of an alternative.

    Args:
        after: whether what follows it may fail.
    """
    steps, ways, loops = 1, 1, []
    for item in reversed(items):
        one = _item_cost(item, after)
        steps = one.steps + (one.ways if after else 1) * steps
        ways *= one.ways
        loops += one.loops
        after = after or item.may_fail
        if max(steps, ways) > COST:
            return _Cost(COST + 1, COST + 1, loops)
    return _Cost(steps, ways, loops)


def _item_cost(item: _Item, after: bool) -> _Cost:
    endless = item.high is None
    times = item.low + 1 if item.high is None else item.high
    ways = 1 if item.high is None else item.high - item.low + 1
    loops = [item] if endless and after else []
    if not item.inner:
        return _Cost(max(1, times), ways, loops)
    repeated = endless or times > 1
    inner = [_cost(each, after or repeated or not item.takes) for each in item.inner]
    steps = sum(each.steps for each in inner)
    loops += [loop for each in inner for loop in each.loops]
    if not item.takes:
        if loops or _has_endless(item):
            raise _Refused(_ENDLESS)
        return _Cost(steps, 1, [])
    inner_ways = sum(each.ways for each in inner)
    if repeated and (inner_ways > 1 or _has_endless(item) or min(map(_shortest, item.inner)) < 1):
        raise _Refused("no repeated groups of varying length")
    return _Cost(steps * max(1, times), inner_ways + ways - 1, loops)


def _has_endless(item: _Item) -> bool:
    parts = [part for each in item.inner for part in each]
    return any(part.high is None or _has_endless(part) for part in parts)


def _parsed(pattern: str) -> list[tuple[str, _Alternative]]:
    """The alternatives of an expression, each with its text."""
    if not 0 < len(pattern) <= LONGEST:
        raise _Refused(f"1 to {LONGEST:,} characters")
    parser = _Parser(pattern)
    if found := _OPTIONS.match(pattern):
        parser.at = found.end()
    alternatives = parser.alternatives(0)
    if parser.at < len(pattern):
        raise _Refused("a regular expression")
    if len(alternatives) == 1:  # a group around all
        (_, (first, *others)) = alternatives[0] if alternatives[0][1] else ("", (_NOTHING,))
        if not others and first.inner and first.takes and (first.low, first.high) == (1, 1):
            return [("", each) for each in first.inner]
    return alternatives


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def alternatives(self, depth: int) -> list[tuple[str, _Alternative]]:
        """Up to the end of the group, or of all."""
        if depth > DEEPEST:
            raise _Refused(f"at most {DEEPEST} groups within each other")
        found: list[tuple[str, _Alternative]] = []
        items: list[_Item] = []
        start = self.at
        while self.at < len(self.pattern) and self.pattern[self.at] != ")":
            if self.pattern[self.at] == "|":
                found.append((self.pattern[start : self.at], tuple(items)))
                items = []
                self.at += 1
                start = self.at
            else:
                items.append(self._repeated(self._atom(depth)))
        return [*found, (self.pattern[start : self.at], tuple(items))]

    def _atom(self, depth: int) -> _Item:
        pattern, start = self.pattern, self.at
        letter = pattern[start]
        if _REPEAT.match(pattern, start):
            raise _Refused("a regular expression")
        if letter == "(":
            found = _GROUP.match(pattern, start)
            if found is None or (pattern.startswith("(?", start) and len(found[0]) == 1):
                raise _Refused("groups that are known")
            self.at = found.end()
            inner = tuple(items for _, items in self.alternatives(depth + 1))
            if not pattern.startswith(")", self.at):
                raise _Refused("a regular expression")
            self.at += 1
            takes = found[0] in ("(", "(?:") or found[0].endswith(":")
            return _Item(pattern[start : self.at], inner, takes)
        if letter == "[":
            end = _class_end(pattern, start)
            if end is None:
                raise _Refused("classes that are closed")
        elif letter == "\\":
            found = _ESCAPE.match(pattern, start)
            if found is None or not _known_escape(found[0]):
                raise _Refused("escapes that are known")
            end = found.end()
        else:
            end = start + 1
        self.at = end
        text = pattern[start:end]
        return _Item(text, takes=text not in _PLACES)

    def _repeated(self, item: _Item) -> _Item:
        found = _REPEAT.match(self.pattern, self.at)
        if found is None:
            return item
        self.at = found.end()
        if not item.takes:
            raise _Refused("no repeated places in a text")
        sign = found[0]
        if sign[0] != "{":
            most = 1 if sign[0] == "?" else None
            return replace(item, low=int(sign[0] == "+"), high=most, lazy=sign[1:] == "?")
        if self.pattern.startswith(("?", "+", "*"), self.at):  # it means another repetition
            raise _Refused("one repetition of a part")
        low, comma, high = found[1] or "0", found[2] or found[4], found[3] or found[4] or ""
        if max(len(low), len(high)) > 9 or max(int(low), int(high or 0)) > MOST:
            raise _Refused(f"at most {MOST} repetitions by number")
        most = int(high) if high else None if comma else int(low)
        if most is not None and most < int(low):
            raise _Refused("a regular expression")
        return replace(item, low=int(low), high=most)


def _known_escape(text: str) -> bool:
    letter = text[1]
    return len(text) > 2 or letter in _ESCAPED or not letter.isalnum()


def _class_end(pattern: str, at: int) -> int | None:
    """Where a class that opens at `at` ends; classes stand within classes."""
    depth = 0
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 2
            continue
        if pattern[at] == "[":
            depth += 1
            if pattern.startswith(("[]", "[^]"), at):  # the first bracket is a letter
                at += pattern.startswith("[^", at) + 1
        elif pattern[at] == "]":
            depth -= 1
        at += 1
        if depth == 0:
            return at
    return None
