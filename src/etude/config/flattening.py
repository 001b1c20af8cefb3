"""Flattens configs to dictionaries with dotted keys, by which runs are filtered and sorted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etude.config.checks import CheckedConfig

TARGET = "_target_"
_RECORD_OPTIONS = ("run", "logger")
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the key path and the value of each entry of nested mappings.

    A list is one value. Keys `_partial_` and empty mappings are omitted. `prefix` is the key path
    of `tree`, empty for the root.

    Example:
        >>> dict(flatten({"seed": 1, "model": {"dim": 8, "norm": {"eps": 1e-5}}}))
        {'seed': 1, 'model.dim': 8, 'model.norm.eps': 1e-05}
    """
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            yield from flatten(value, path)
        elif key != "_partial_":
            yield path, value


def follow_reference(value: Any, values: Mapping[str, Any]) -> Any:
    """Returns the value to which a reference such as `${data.sequence_length}` refers.

    Other values, and references to keys that don't exist, are returned unchanged.

    Args:
        value: a value of a config.
        values: all values of the config by their key paths.
    """
    for _ in range(8):  # bounds a cycle of references
        match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if match is None or match[1] not in values:
            break
        value = values[match[1]]
    return value


def without_record_options(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config `tree` without the keys `run` and `logger`, which do not change a run's
    result.
    """
    return {key: value for key, value in tree.items() if key not in _RECORD_OPTIONS}


def flatten_config(checked: CheckedConfig) -> dict[str, Any]:
    """Returns a dictionary from the key paths of a config to values, without `run` and `logger`.

    Secrets are masked. A value that is hashed into the signature has the form in which it is
    hashed. Values that the config sets to the default of a constructor are not hashed, but they are
    included here.
    """
    hashed = dict(flatten(checked.identity))
    shown = flatten(without_record_options(checked.shown))
    return {path: hashed.get(path, value) for path, value in shown}
