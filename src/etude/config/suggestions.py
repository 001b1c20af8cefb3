"""Suggestions for unknown keys at the root of the config."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig, OmegaConf

from etude.config.schema import NODES, ROOT_KEYS
from etude.config.targets import find_constructor
from etude.errors import RequestError


def suggest_node(key: str, config: Mapping[str, Any]) -> str | None:
    """Returns a hint if an unknown key exists below another key: `trainer.compile` for `compile`.

    Returns None if there is no such key, or if a root key is spelled similarly.

    Args:
        key: the unknown key.
        config: the config; the arguments of its classes are searched for the key.
    """
    if get_close_matches(key, ROOT_KEYS, n=1, cutoff=0.75):  # a misspelled root key
        return None
    matches = [f"{node}.{key}" for node in NODES if key in _arguments(node, config[node])]
    return f"did you mean {' or '.join(matches)}?" if matches else None


def is_key(path: str, config: DictConfig) -> bool:
    """Returns whether a key path such as `model.dim` names a key of the config, or an argument of
    one of its classes.
    """
    above, _, name = path.rpartition(".")
    node: Any = OmegaConf.select(config, above) if above else config
    if not isinstance(node, Mapping):
        return False
    return name in node or name in _arguments(above, node)


def _arguments(where: str, node: Mapping[str, Any]) -> list[str]:
    try:
        return find_constructor(node["_target_"], where).settable(bool(node.get("_partial_")))
    except (RequestError, KeyError):  # reported by the checks of the config
        return []
