"""A config as one dictionary of dotted keys: what lists of runs filter and sort by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etude.config.checks import Checked

TARGET = "_target_"
_ABOUT_THE_RECORD = ("run", "logger")


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its key path. Lists are values; a class stands under `<node>._target_`.

    Example:
        >>> dict(flat({"seed": 1, "model": {"dim": 8, "norm": {"eps": 1e-5}}}))
        {'seed': 1, 'model.dim': 8, 'model.norm.eps': 1e-05}
    """
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            yield from flat(value, path)
        elif key != "_partial_":
            yield path, value


def without_record_options(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The config but for how it is recorded: what could make two runs differ."""
    return {key: value for key, value in tree.items() if key not in _ABOUT_THE_RECORD}


def flat_config(checked: Checked) -> dict[str, Any]:
    """The config's values by key path, as they entered the signature or, beside it, may be shown.

    Values equal to their constructor's default are there too, though no signature holds them.
    """
    entered = dict(flat(checked.identity))
    shown = flat(without_record_options(checked.shown))
    return {path: entered.get(path, value) for path, value in shown}
