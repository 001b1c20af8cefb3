"""What must not be written down: passwords in URLs, and values from the environment.

A URL's password is replaced by `***` wherever text leaves the process, and a value that a config
takes from the environment by the reference to it, `${oc.env:NAME}`, wherever a record is written.
The run itself works with the true values.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

_REFERENCE = r"\$\{[^{}]*\}"
_URL_PASSWORD = re.compile(
    rf"(://(?:{_REFERENCE}|[^\s/?\#:@])*:)"  # the user's name
    rf"((?:{_REFERENCE}|[^\s/?\#])+)"  # the password, up to the last @ before the path
    r"@"
)
_PLACEHOLDER = re.compile(
    rf"{_REFERENCE}|\{{[^{{}}]*\}}|%s|%\(\w+\)s|<[^<>]*>|\*+"
)  # of a config, an f-string, a template, a manual: no password yet
_SHORTEST = 4  # characters; what is shorter hides nothing and would be found everywhere
_PLAIN_WORDS = frozenset({"true", "false", "null", "none", "auto"})


def without_passwords(value: Any) -> Any:
    """The text with each URL's password replaced by `***`; likewise all texts in a tree.

    A placeholder, such as the reference `${oc.env:NAME}`, is no password yet and stays.

    Example:
        >>> without_passwords("https://me:{}@host/x".format("secret"))
        'https://me:***@host/x'
    """
    if isinstance(value, str):
        return _URL_PASSWORD.sub(_hidden, value) if "://" in value else value
    if isinstance(value, Mapping):
        return {without_passwords(k): without_passwords(inner) for k, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_passwords(inner) for inner in value]
    return value


def _hidden(found: re.Match[str]) -> str:
    return found[0] if _PLACEHOLDER.fullmatch(found[2]) else f"{found[1]}***@"


class Mask:
    """Hides the values that a config took from the environment, and passwords in URLs.

    Args:
        values: what was taken, by the variable's name. Values shorter than four characters, short
            numbers and words such as `true` are no secrets and stay: they would be found in any
            text.
    """

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        spellings: dict[str, str] = {}
        for name, value in (values or {}).items():
            if _worth_hiding(value):
                for spelling in _spellings(value):
                    spellings.setdefault(spelling, f"${{oc.env:{name}}}")
        self._spellings = dict(sorted(spellings.items(), key=lambda item: -len(item[0])))

    def text(self, text: str) -> str:
        """The text with references in place of values."""
        for spelling, reference in self._spellings.items():
            text = text.replace(spelling, reference)
        return str(without_passwords(text))

    def tree(self, value: Any) -> Any:
        """`text` of all texts in lists and dictionaries; keys stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.tree(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(inner) for inner in value]
        return value

    def hides(self, value: str | None) -> bool:
        """Whether something in the value would be replaced."""
        return value is not None and self.text(value) != value


class MaskingFormatter(logging.Formatter):
    """A formatter whose whole line, traceback included, goes through a mask."""

    def __init__(self, pattern: str, mask: Mask | None = None) -> None:
        super().__init__(pattern)
        self._mask = mask or Mask()

    def format(self, record: logging.LogRecord) -> str:
        """The line as it may be written."""
        return self._mask.text(super().format(record))


def mask_messages(mask: Mask) -> None:
    """From now on what this process logs goes through `mask`, wherever it goes."""
    for handler in logging.getLogger("etude").handlers:
        if isinstance(handler.formatter, MaskingFormatter):
            handler.formatter._mask = mask


def _worth_hiding(value: str) -> bool:
    short_number = len(value) < 8 and re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", value, re.IGNORECASE)
    return len(value) >= _SHORTEST and value.lower() not in _PLAIN_WORDS and not short_number


def _spellings(value: str) -> list[str]:
    """The value as it stands in a text, in Python's and JSON's quotes, in a URL."""
    stripped = value.rstrip("/")  # joined to a path, `/data/` becomes `/data`
    return [
        value,
        *([stripped] if len(stripped) >= _SHORTEST else []),
        repr(value)[1:-1],
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        quote(value),
        quote(value, safe=""),
    ]
