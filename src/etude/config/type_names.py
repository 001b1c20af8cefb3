"""Descriptions of type annotations for error messages."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}


def describe_type(hint: Any) -> str:
    """Returns a noun phrase for a type annotation, for messages with "expected ...".

    Example:
        >>> describe_type(int | None)
        'an integer or null'
    """
    if hint is type(None):
        return "null"
    if hint in _NAMES:
        return _NAMES[hint]
    if is_union(hint):
        return " or ".join(describe_type(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        options = [str(option) for option in typing.get_args(hint)]
        return options[0] if len(options) == 1 else "one of " + ", ".join(options)
    if typing.get_origin(hint) is tuple:
        inner = ", ".join(describe_type(option) for option in typing.get_args(hint))
        return f"a list of {len(typing.get_args(hint))} values: {inner}"
    if typing.get_origin(hint) is list:
        return f"a list in which each item is {describe_type(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict:
        return _mapping(*typing.get_args(hint))
    origin = typing.get_origin(hint) or hint
    if dataclasses.is_dataclass(origin) or (isinstance(origin, type) and not _is_builtin(origin)):
        return "a mapping of settings"
    return getattr(hint, "__name__", str(hint))


def _mapping(key: Any, value: Any) -> str:
    has_name = value in _NAMES or typing.get_origin(value) is dict
    if key is int:
        return "a mapping from integers" + (
            f" to {describe_type(value)}" if has_name else " to values"
        )
    return "a mapping" + (f" in which each value is {describe_type(value)}" if has_name else "")


def _is_builtin(kind: type) -> bool:
    return kind.__module__ == "builtins"


def is_union(hint: Any) -> bool:
    """Returns whether an annotation is a union of types, such as `int | None`."""
    return isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union


def takes_list(hint: Any) -> bool:
    """Returns whether a list or tuple is one of the types in an annotation."""
    options = typing.get_args(hint) if is_union(hint) else (hint,)
    return any((typing.get_origin(option) or option) in (list, tuple) for option in options)


def takes_bool(hint: Any) -> bool:
    """Returns whether `bool`, `Any` or `object` is one of the types in an annotation.

    An annotation such as `int` does not count, although a boolean is an `int` in Python.
    """
    options = typing.get_args(hint) if is_union(hint) else (hint,)
    return any(option in (bool, Any, object) for option in options)
