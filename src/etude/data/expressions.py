r"""Checks that the regular expressions of a tokenizer search a text in linear time.

A search tries an expression at each position of a text, and at each position one alternative (a
part between `|`) after the other. An attempt that fails takes as many steps as it has read
characters. So two things are checked:

- An attempt takes at most `COST` steps, in addition to its unbounded repetitions (`*`, `+`,
  `{2,}`).
- Text that an unbounded repetition has read is not read again at a later position. Usually,
  everything after the repetition may match the empty string. Then the attempt succeeds, and the
  search continues after the match. Otherwise, as in `\s*[\r\n]+`, the repetition must be of one
  character class, and a later alternative, such as `\s+`, must match any text of this class; all
  alternatives between the two must repeat the same class. So if the first alternative fails after a
  long text, the later one matches this text, and the search continues after it.

The expressions of GPT-2, Llama, Qwen, DeepSeek, GPT-4o and others pass. The few alternatives of
released tokenizers that don't pass are listed in `RELEASED`; their cost is quadratic in the number
of consecutive spaces or digits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

COST = 512
LONGEST = 4096  # characters
MOST = 256  # maximum repetition count
DEEPEST = 8  # maximum depth of nested groups
RELEASED = (r"\s+$", "^▁+$", " +▁", r"\d{1,3}(?=(?:\d{3})*\b)")

_ROW_OF_SPACES = r"\s+(?!\S)"
"""Expression that matches consecutive whitespace, as a whole or without its last character."""

_UNBOUNDED = (
    "no unbounded repetition (*, +, {2,}) that may take quadratic time on long texts; write a "
    "limit instead, as in {1,100}. An unbounded repetition is accepted if everything after it may "
    "match the empty string. A repetition of a character class is also accepted if a later "
    r"alternative is this class with +, as in \s*[\r\n]+|\s+"
)
_ESCAPED = "sSwWdDhHbBAzZnrtfv"
_ANCHORS = ("^", "$", r"\b", r"\B", r"\A", r"\z", r"\Z")
_GROUP = re.compile(r"\((?:\?(?:[im]*:|=|!|<=|<!))?")
_OPTIONS = re.compile(r"\(\?[im]+\)")
_ESCAPE = re.compile(
    r"\\(?:[pP]\{\^?[\w ]+\}|x\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|.)", re.DOTALL
)
_REPEAT = re.compile(r"[*+?][?+]?|\{([0-9]+)(,?)([0-9]*)\}|\{,([0-9]+)\}")


class _Rejected(Exception):
    """Raised for a rejected regular expression; the message describes what is accepted."""


@dataclass(frozen=True)
class _Item:
    """Element of a regular expression (character, class, anchor or group), and its repetitions.

    Attributes:
        text: source text, without the quantifier.
        inner: alternatives of a group; empty for other elements.
        consumes: whether the element consumes the text that it matches: False for anchors such as
            `^` and `$`, and for lookarounds.
        low, high: minimum and maximum number of repetitions; `high` is None if unbounded.
        lazy: whether the element is repeated as few times as possible.
    """

    text: str
    inner: tuple[tuple[_Item, ...], ...] = ()
    consumes: bool = True
    low: int = 1
    high: int | None = 1
    lazy: bool = False

    @property
    def may_fail(self) -> bool:
        return self.low > 0 and (
            not self.consumes or not self.inner or all(map(_may_fail, self.inner))
        )

    @property
    def shortest(self) -> int:
        """Minimum number of characters that the element consumes."""
        once = min(map(_shortest, self.inner)) if self.inner else 1
        return self.low * once if self.consumes else 0


_NOTHING = _Item("", consumes=False)
_Alternative = tuple[_Item, ...]


def find_problem(pattern: str) -> str | None:
    """Returns None if a regular expression is accepted, otherwise which property it must have.

    The property is a noun phrase that completes "expected ..." in a message.
    """
    try:
        alternatives = _parse(pattern)
        _check(alternatives)
    except _Rejected as rejected:
        return str(rejected)
    return None


def shortest_match(pattern: str) -> int:
    """Returns the length in characters of the shortest match; 0 for an unsupported `pattern`."""
    try:
        return min(_shortest(each) for _, each in _parse(pattern))
    except _Rejected:
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
        raise _Rejected(
            f"a regular expression that takes at most {COST} steps at each position of a text; to "
            "need fewer steps, use fewer alternatives or smaller repetition counts"
        )
    loops = [cost.loops for cost in costs]
    for number, (text, items) in enumerate(alternatives):
        if not loops[number] or (text == _ROW_OF_SPACES):
            continue
        (loop, *others) = loops[number]
        if others or loop.inner or loop not in items:
            raise _Rejected(_UNBOUNDED)
        for later in range(number + 1, len(alternatives)):
            if _matches_all(*alternatives[later], loops[later], loop.text):
                break
            if [each.text for each in loops[later]] != [loop.text]:
                raise _Rejected(_UNBOUNDED)
        else:
            raise _Rejected(_UNBOUNDED)


def _matches_all(text: str, items: _Alternative, loops: list[_Item], repeated: str) -> bool:
    """Returns whether an alternative matches every non-empty string of one character class.

    The alternatives of a regular expression are its parts between `|`. For whitespace, the
    alternative `_ROW_OF_SPACES` is accepted, too: it matches consecutive whitespace as a whole or
    without its last character.

    Args:
        text: source text of the alternative.
        items: elements of the alternative.
        loops: the alternative's unbounded repetitions that precede an element that may fail to
            match (see `_Cost`).
        repeated: source text of the character class, such as `[0-9]`.
    """
    if (text, repeated) == (_ROW_OF_SPACES, r"\s"):
        return True
    first = next((n for n, item in enumerate(items) if item.may_fail), len(items))
    if loops or first == len(items) or _may_fail(items[first + 1 :]):
        return False
    item = items[first]
    return item.text == repeated and item.high is None and item.low == 1 and not item.lazy


@dataclass(frozen=True)
class _Cost:
    """Cost of an attempt to match an alternative, or one of its elements, at a text position.

    Attributes:
        steps: maximum number of steps, with each unbounded repetition counted once.
        ways: number of ways to match, which are all tried if a later element fails.
        loops: unbounded repetitions that are tried at each length if a later element fails.
    """

    steps: int
    ways: int
    loops: list[_Item]


def _cost(items: _Alternative, after: bool) -> _Cost:
    """Returns the cost of an attempt to match an alternative.

    Args:
        items: elements of the alternative.
        after: whether an element after the alternative may fail to match.

    Returns:
        The cost; its steps and ways are `COST` + 1 if one of them is more than `COST`.

    Raises:
        _Rejected: if the alternative contains a repeated group or a lookaround that is not
            accepted.
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
    is_unbounded = item.high is None
    count = item.low + 1 if item.high is None else item.high
    ways = 1 if item.high is None else item.high - item.low + 1
    loops = [item] if is_unbounded and after else []
    if not item.inner:
        return _Cost(max(1, count), ways, loops)
    is_repeated = is_unbounded or count > 1
    inner = [_cost(each, after or is_repeated or not item.consumes) for each in item.inner]
    steps = sum(each.steps for each in inner)
    loops += [loop for each in inner for loop in each.loops]
    if not item.consumes:
        if loops or _has_unbounded(item):
            raise _Rejected(_UNBOUNDED)
        return _Cost(steps, 1, [])
    inner_ways = sum(each.ways for each in inner)
    if is_repeated and (
        inner_ways > 1 or _has_unbounded(item) or min(map(_shortest, item.inner)) < 1
    ):
        raise _Rejected(
            "repeated groups that match at least one character, and that contain no alternatives "
            "(|) and no variable repetitions (*, +, ?, {1,2}), such as (ab)+; not (a|b)+ or (a*)+"
        )
    return _Cost(steps * max(1, count), inner_ways + ways - 1, loops)


def _has_unbounded(item: _Item) -> bool:
    parts = [part for each in item.inner for part in each]
    return any(part.high is None or _has_unbounded(part) for part in parts)


def _parse(pattern: str) -> list[tuple[str, _Alternative]]:
    """Returns the alternatives of a regular expression, as pairs (source text, elements).

    If the whole expression is one group, these are the group's alternatives, with empty source
    texts.

    Raises:
        _Rejected: if the expression is invalid, too long, or contains syntax that is not accepted.
    """
    if not 0 < len(pattern) <= LONGEST:
        raise _Rejected(f"a regular expression of 1 to {LONGEST:,} characters")
    parser = _Parser(pattern)
    if options := _OPTIONS.match(pattern):
        parser.at = options.end()
    alternatives = parser.alternatives(0)
    if parser.at < len(pattern):
        raise _Rejected("a valid regular expression")
    if len(alternatives) == 1:  # one group around the whole expression
        (_, (first, *others)) = alternatives[0] if alternatives[0][1] else ("", (_NOTHING,))
        if not others and first.inner and first.consumes and (first.low, first.high) == (1, 1):
            return [("", each) for each in first.inner]
    return alternatives


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def alternatives(self, depth: int) -> list[tuple[str, _Alternative]]:
        """Parses alternatives until the current group or, outside of groups, the expression ends.

        Args:
            depth: number of groups around the current position.

        Returns:
            The source text and the elements of each alternative.
        """
        if depth > DEEPEST:
            raise _Rejected(f"at most {DEEPEST} nested groups")
        alternatives: list[tuple[str, _Alternative]] = []
        items: list[_Item] = []
        start = self.at
        while self.at < len(self.pattern) and self.pattern[self.at] != ")":
            if self.pattern[self.at] == "|":
                alternatives.append((self.pattern[start : self.at], tuple(items)))
                items = []
                self.at += 1
                start = self.at
            else:
                items.append(self._repeated(self._atom(depth)))
        return [*alternatives, (self.pattern[start : self.at], tuple(items))]

    def _atom(self, depth: int) -> _Item:
        pattern, start = self.pattern, self.at
        letter = pattern[start]
        if _REPEAT.match(pattern, start):
            raise _Rejected("a valid regular expression")
        if letter == "(":
            match = _GROUP.match(pattern, start)
            if match is None or (pattern.startswith("(?", start) and len(match[0]) == 1):
                raise _Rejected("a group (...), (?:...), (?=...), (?!...), (?<=...) or (?<!...)")
            self.at = match.end()
            inner = tuple(items for _, items in self.alternatives(depth + 1))
            if not pattern.startswith(")", self.at):
                raise _Rejected("a valid regular expression")
            self.at += 1
            consumes = match[0] in ("(", "(?:") or match[0].endswith(":")
            return _Item(pattern[start : self.at], inner, consumes)
        if letter == "[":
            end = _class_end(pattern, start)
            if end is None:
                raise _Rejected("a bracket ] at the end of the character class")
        elif letter == "\\":
            match = _ESCAPE.match(pattern, start)
            if match is None or not _known_escape(match[0]):
                raise _Rejected(r"a supported escape sequence, such as \s, \d or \p{L}")
            end = match.end()
        else:
            end = start + 1
        self.at = end
        text = pattern[start:end]
        return _Item(text, consumes=text not in _ANCHORS)

    def _repeated(self, item: _Item) -> _Item:
        match = _REPEAT.match(self.pattern, self.at)
        if match is None:
            return item
        self.at = match.end()
        if not item.consumes:
            raise _Rejected("anchors and lookarounds without a quantifier such as * or +")
        operator = match[0]
        if operator[0] != "{":
            most = 1 if operator[0] == "?" else None
            return replace(item, low=int(operator[0] == "+"), high=most, lazy=operator[1:] == "?")
        if self.pattern.startswith(("?", "+", "*"), self.at):  # repeats a repetition
            raise _Rejected("at most one quantifier, such as * or +, after an element")
        low, comma, high = match[1] or "0", match[2] or match[4], match[3] or match[4] or ""
        if max(len(low), len(high)) > 9 or max(int(low), int(high or 0)) > MOST:
            raise _Rejected(f"a repetition count of at most {MOST}, as in x{{2,5}}")
        most = int(high) if high else None if comma else int(low)
        if most is not None and most < int(low):
            raise _Rejected("a valid regular expression")
        return replace(item, low=int(low), high=most)


def _known_escape(text: str) -> bool:
    letter = text[1]
    return len(text) > 2 or letter in _ESCAPED or not letter.isalnum()


def _class_end(pattern: str, at: int) -> int | None:
    """Returns the end of the character class that begins at `at`; None if the class has no end.

    The class begins with its opening bracket; the end is the position after the closing bracket.
    The class may contain other classes.
    """
    depth = 0
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 2
            continue
        if pattern[at] == "[":
            depth += 1
            if pattern.startswith(("[]", "[^]"), at):  # the first bracket is a literal
                at += pattern.startswith("[^", at) + 1
        elif pattern[at] == "]":
            depth -= 1
        at += 1
        if depth == 0:
            return at
    return None
