"""What somebody may have meant by a key that the root does not have."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from etude.config.schema import NODES, ROOT_KEYS
from etude.config.targets import described_at
from etude.errors import RequestError


def argument_of_a_node(key: str, config: Mapping[str, Any]) -> str | None:
    """A hint where the node was left out: `compile` is an argument of the trainer.

    Args:
        key: what was typed.
        config: its nodes say which constructors are asked.
    """
    if get_close_matches(key, ROOT_KEYS, n=1, cutoff=0.75):  # a misspelt word
        return None
    found = [f"{node}.{key}" for node in NODES if key in _arguments(node, config[node])]
    return f"did you mean {' or '.join(found)}?" if found else None


def _arguments(where: str, node: Mapping[str, Any]) -> list[str]:
    try:
        return described_at(node["_target_"], where).settable(bool(node.get("_partial_")))
    except (RequestError, KeyError):  # told elsewhere
        return []
