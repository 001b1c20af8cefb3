"""Classes of labels: which spellings denote the same class.

- White space around a label is ignored, and canonically equivalent Unicode (NFC, NFD) is equal.
- Whole numbers of the same value are one class: `0`, `0.0` and `-0`. Text counts as a number if
  it is a JSON number; `007` and `+7` are names.
- All other spellings are different classes: `Spam` and `spam`, `1.1` and `1.10`. Names that differ
  only in case or spacing are reported.
- A number, a text and a Boolean that look alike (`1`, `"1"`, `true`, `"true"`) in one column raise
  an error, because they may or may not be the same class. In CSV and TSV every value is text.
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
"""Lower-case names that often mean a missing label."""
KINDS: Mapping[type, str] = {str: "text", bool: "a Boolean", int: "a number", float: "a number"}


def class_key(label: str) -> str:
    """Returns a key of a label that is the same for all spellings of its class."""
    label = label.strip()
    if number := DEFAULT_KINDS.fullmatch(label):
        return "0" if number[2] == "0" else number[1] + number[2]
    return label if label.isascii() else unicodedata.normalize("NFC", label)


def class_numbers(labels: Sequence[str]) -> dict[str, int]:
    """Returns a dict from the key of each label (see `class_key`) to its index in `labels`."""
    return {class_key(name): number for number, name in enumerate(labels)}


def check_label_names(checks: Checks, labels: Sequence[str] | None) -> None:
    """Adds a problem to `checks` if the names of the labels in the config are invalid.

    Valid are None (the config sets no labels), and at least two names that are all different.
    """
    several = labels is None or len(set(labels)) == len(labels) > 1
    checks.that(several, "labels", labels, "at least two names without duplicates")


def class_name(key: str, spellings: Iterable[str]) -> str:
    """Returns the name of a class: its spelling if there is only one, otherwise its key.

    Args:
        key: key of the class; see `class_key`.
        spellings: all labels in the data that denote this class.
    """
    names = set(spellings)
    return names.pop() if len(names) == 1 else key


def parse_label(value: Any, where: str) -> str:
    """Returns the name of a label that was read from a file.

    Args:
        value: the label: text, a whole number or a Boolean.
        where: position of the label, for error messages.

    Returns:
        A text without the white space around it; a number as Python writes it, such as `3` or
        `3.0`; or `True` or `False` for a Boolean.

    Raises:
        RequestError: the label is missing, or is not text, a whole number or a Boolean.
    """
    name = str(value).strip() if type(value) in KINDS else ""
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        name = ""
    if not name:
        raise RequestError(Problem(where, "a label (a name or a whole number)", value))
    check_surrogates(where, name)
    return name


class LabelInspection(Inspection):
    """Check of the labels of all rows.

    It raises an error for labels of different types that look alike, such as 1 and "1". The
    lines that `notes` returns list spellings of one class, names of different classes that differ
    only in case, spacing or the spelling of a number, and names that may mean a missing label.

    Args:
        column: name of the column with the labels.
    """

    def __init__(self, column: str) -> None:
        self.column = column
        self.first: dict[str, tuple[str, str, str]] = {}  # kind, spelling, where
        self.spellings: dict[str, dict[str, str]] = {}  # of each class, with the position of each

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
            expected = f"{before[0]}, because the similar label {before[1]} in {before[2]} is "
            expected += before[0]
            hint = "if these two labels mean the same class, write them in the same way; "
            hint += "if not, rename one of them"
            raise RequestError(Problem(where, expected, value, hint))

    def notes(self, labels: Sequence[str]) -> list[str]:
        several = [
            " and ".join(repr(each) for each in sorted(spellings))
            for spellings in self.spellings.values()
            if len(spellings) > 1
        ]
        notes = [f"labels treated as the same class: {', '.join(several)}"] if several else []
        near: dict[str, list[str]] = {}
        for name in labels:
            near.setdefault(_loose_key(name), []).append(name)
        if groups := [" and ".join(map(repr, names)) for names in near.values() if len(names) > 1]:
            listing = ", ".join(groups)
            notes.append(f"labels with similar names, treated as different classes: {listing}")
        if missing := [name for name in labels if name.casefold() in MISSING]:
            names = ", ".join(map(repr, missing))
            notes.append(f"labels used as classes, although they may mean a missing label: {names}")
        return notes


def _lookalike_key(value: Any) -> str:
    """Returns a key that is the same for values of different types that look alike.

    Examples are the number 1, the text "1", the Boolean true and the text "true".
    """
    if isinstance(value, bool):
        return str(int(value))
    name = class_key(str(value))
    return {"true": "1", "false": "0"}.get(name.casefold(), name)


def _format_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _loose_key(name: str) -> str:
    """Returns a key that is equal for names that differ only in case, spacing or the spelling of a
    number.
    """
    normalized = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    try:
        return repr(float(normalized))
    except ValueError:
        return normalized
