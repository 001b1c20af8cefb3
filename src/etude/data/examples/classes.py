"""Which spellings of a label are one class.

- White space around a label does not count, and canonically equivalent Unicode (NFC, NFD) is equal.
- Whole numbers of the same value are one class: `0`, `0.0` and `-0`. Text counts as a number where
  it is spelt as JSON spells one; `007` and `+7` are names.
- All else is two classes: `Spam` and `spam`, `1.1` and `1.10`. Names that differ in nothing else
  than case or spacing are reported.
- A number, a text and a truth value that look alike (`1`, `"1"`, `true`, `"true"`) in one column
  are refused: nobody knows whether they are meant to be the same. In CSV and TSV all is text.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etude.data.examples.source import Inspection, Row
from etude.data.rows import check_surrogates
from etude.errors import Checks, Problem, RequestError

DEFAULT_KINDS = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.0+)?")
MISSING = {"na", "n/a", "nan", "null", "none", "<na>", "?", "-"}
"""Names, in lower case, that often stand for a missing label."""
KINDS: Mapping[type, str] = {str: "text", bool: "a truth value", int: "a number", float: "a number"}


def class_key(label: str) -> str:
    """The same for all spellings of a class."""
    label = label.strip()
    if number := DEFAULT_KINDS.fullmatch(label):
        return "0" if number[2] == "0" else number[1] + number[2]
    return label if label.isascii() else unicodedata.normalize("NFC", label)


def class_numbers(labels: Sequence[str]) -> dict[str, int]:
    """The number of each class, by its key."""
    return {class_key(name): number for number, name in enumerate(labels)}


def check_label_names(checks: Checks, labels: Sequence[str] | None) -> None:
    """Notes stated labels that are no classes to tell apart."""
    several = labels is None or len(set(labels)) == len(labels) > 1
    checks.that(several, "labels", labels, "two names or more, all different")


def class_name(key: str, spellings: Iterable[str]) -> str:
    """The name of a class: as it is spelt everywhere, else its key."""
    found = set(spellings)
    return found.pop() if len(found) == 1 else key


def parse_label(value: Any, where: str) -> str:
    """The name of a label as it stands in a file.

    Args:
        where: for messages.

    Raises:
        RequestError: it is missing, or neither text nor a whole number nor a truth value.
    """
    name = str(value).strip() if type(value) in KINDS else ""
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        name = ""
    if not name:
        raise RequestError(Problem(where, "a label: a name or a whole number", value))
    check_surrogates(where, name)
    return name


class LabelInspection(Inspection):
    """Looks for labels of different types that look alike, and for names that nearly are the same.

    Args:
        column: of the labels.
    """

    def __init__(self, column: str) -> None:
        self.column = column
        self.first: dict[str, tuple[str, str, str]] = {}  # kind, spelling, where
        self.spellings: dict[str, dict[str, str]] = {}  # of each class, and where each is met

    def row(self, row: Row) -> None:
        value = row.values[self.column]
        name = str(value).strip()
        known = self.spellings.setdefault(class_key(name), {})
        if name not in known:
            known[name] = row.where
        if not row.typed:
            return
        kind, shown = KINDS[type(value)], _format_value(value)
        before = self.first.setdefault(_lookalike_key(value), (kind, shown, row.where))
        if before[0] != kind:
            where = f"{row.where}, column {self.column}"
            expected = f"{before[0]}, as {before[1]} is in {before[2]}"
            hint = "nobody can tell whether both are one class: write them in the same way"
            raise RequestError(Problem(where, expected, value, hint))

    def notes(self, labels: Sequence[str]) -> list[str]:
        several = [
            " and ".join(repr(each) for each in sorted(spellings))
            for spellings in self.spellings.values()
            if len(spellings) > 1
        ]
        found = [f"one class, as they are equal: {', '.join(several)}"] if several else []
        near: dict[str, list[str]] = {}
        for name in labels:
            near.setdefault(_loose_key(name), []).append(name)
        if groups := [" and ".join(map(repr, names)) for names in near.values() if len(names) > 1]:
            found.append(f"classes of their own, though nearly the same: {', '.join(groups)}")
        if missing := [name for name in labels if name.casefold() in MISSING]:
            names = ", ".join(map(repr, missing))
            found.append(
                f"a class like any other, though it may stand for a missing label: {names}"
            )
        return found


def _lookalike_key(value: Any) -> str:
    """The same for values of any type that look alike."""
    if isinstance(value, bool):
        return str(int(value))
    name = class_key(str(value))
    return {"true": "1", "false": "0"}.get(name.casefold(), name)


def _format_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _loose_key(name: str) -> str:
    normalized = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    try:
        return repr(float(normalized))
    except ValueError:
        return normalized
