"""Overrides from Python values: strings, lists of strings, and dicts from keys to values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from os import PathLike, fspath
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf

from etude.errors import Problem, RequestError

Overrides = str | Sequence[str] | dict[str, Any]
"""One override, a list of overrides, or a dict from keys to values."""

_PLAIN = re.compile(r"[A-Za-z_/][\w./@:-]*", re.ASCII)
_KEY = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_RESERVED = re.compile(r"(?i)null|true|false|nan|inf")


def as_overrides(items: Sequence[Overrides], *, sweep: bool = False) -> list[str]:
    """Returns overrides in Hydra's grammar.

    In a dict, a nested dict sets the keys below its key: `{"model": {"layers": 2}}` is
    `model.layers=2`.

    Args:
        items: the overrides.
        sweep: whether a list in a dict contains the values of a swept key; otherwise it is a value.

    Raises:
        RequestError: a dict contains a value that no config can contain.
    """
    problems: list[Problem] = []
    overrides: list[str] = []
    for item in items:
        if isinstance(item, dict):
            overrides += _of_mapping(item, "", sweep, problems)
        else:
            overrides += [item] if isinstance(item, str) else item
    if problems:
        raise RequestError(problems)
    return overrides


def _of_mapping(
    mapping: Mapping[str, Any], prefix: str, sweep: bool, problems: list[Problem]
) -> Iterator[str]:
    for name, value in mapping.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _of_mapping(value, f"{key}.", sweep, problems)
            continue
        try:
            value = value.tolist() if getattr(value, "ndim", 0) else value  # an array
            if value is None and "/" in key:
                problems.append(Problem(key, "the name of a config file", value))
                continue
            if sweep and isinstance(value, list | tuple | range) and len(value):
                if "/" in key and None in value:
                    problems.append(Problem(key, "names of config files", value))
                    continue
                yield f"{key}={','.join(map(_format, value))}"
            else:
                yield f"{key}={_format(value)}"
        except (TypeError, RecursionError):
            expected = "a value of a config: a string, a number, a bool, None, a list or a dict"
            problems.append(Problem(key, expected, value))


def _format(value: Any) -> str:
    """Returns a value in Hydra's grammar.

    Raises:
        TypeError: no config can contain the value.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return repr(int(value))
    if isinstance(value, float):
        return repr(float(value))  # NumPy's float64 has its own repr
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, Enum):
        return _format(value.value)
    if isinstance(value, PathLike):
        value = fspath(value)
    if isinstance(value, str):
        value = str.__str__(value)
        is_plain = _PLAIN.fullmatch(value) and not _RESERVED.fullmatch(value)
        return value if is_plain else QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) and _KEY.fullmatch(key) for key in value):
            raise TypeError("a key that Hydra's grammar does not allow")
        return "{" + ",".join(f"{key}:{_format(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple | range):
        return "[" + ",".join(map(_format, value)) + "]"
    if hasattr(value, "tolist"):  # a number or an array of NumPy or torch
        return _format(value.tolist())
    raise TypeError(type(value).__name__)
