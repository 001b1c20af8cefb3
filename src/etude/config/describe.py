"""Types in words, for messages."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def describe(hint: Any) -> str:
    """The end of the sentence "expected ..." for a type annotation.

    Example:
        >>> describe(int | None)
        'a whole number or null'
    """
    if hint is type(None):
        return "null"
    if hint in _WORDS:
        return _WORDS[hint]
    if is_union(hint):
        return " or ".join(describe(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        options = [str(option) for option in typing.get_args(hint)]
        return options[0] if len(options) == 1 else "one of " + ", ".join(options)
    if typing.get_origin(hint) is tuple:
        inner = ", ".join(describe(option) for option in typing.get_args(hint))
        return f"a list of {len(typing.get_args(hint))}: {inner}"
    if typing.get_origin(hint) is list:
        return f"a list, each {describe(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict:
        return _mapping(*typing.get_args(hint))
    origin = typing.get_origin(hint) or hint
    if dataclasses.is_dataclass(origin) or (isinstance(origin, type) and not _is_plain(origin)):
        return "a part with settings of its own"
    return getattr(hint, "__name__", str(hint))


def _mapping(key: Any, value: Any) -> str:
    plain = value in _WORDS or typing.get_origin(value) is dict
    if key is int:
        return "a mapping of whole numbers" + (f", each to {describe(value)}" if plain else "")
    return "a mapping" + (f", each value {describe(value)}" if plain else "")


def _is_plain(kind: type) -> bool:
    return kind.__module__ == "builtins"


def is_union(hint: Any) -> bool:
    """Whether an annotation is `A | B`."""
    return isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union


def takes_bool(hint: Any) -> bool:
    """Whether true and false fit the annotation as such, not as numbers."""
    options = typing.get_args(hint) if is_union(hint) else (hint,)
    return any(option in (bool, Any, object) for option in options)
