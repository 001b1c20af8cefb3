"""Replaces mutable references in a config, such as a branch on the Hugging Face Hub, by commits.

A branch can change, but a run must be a function of its config. So before a config is hashed and
saved, such a reference is replaced by the commit that it refers to at this time.

A class can have mutable references if it has a class method `pinned(arguments)`. The method
receives the checked arguments in the config and returns the arguments to replace. It may access the
network, but not for an argument that is already fixed. It raises `InvalidArguments` if a reference
cannot be resolved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from etude.config.nodes import Node
from etude.errors import InvalidArguments, Problem, RequestError


def pin(config: DictConfig, nodes: Iterable[Node]) -> DictConfig:
    """Replaces mutable references in the arguments of nodes by commits.

    Returns a config that contains the commits; if there are none, the unchanged config.

    Args:
        config: the config; it is not changed.
        nodes: checked nodes; they and the nodes in their arguments are changed in place.

    Raises:
        RequestError: references cannot be resolved; the exception contains all of them.
    """
    problems: list[Problem] = []
    result = config
    for node in _walk(list(nodes)):
        if not node.description.pins:
            continue
        try:
            pinned: dict[str, Any] = node.constructor.pinned(dict(node.arguments))
        except InvalidArguments as error:
            problems += [problem.under(node.where) for problem in error.problems]
            continue
        for key, value in pinned.items():
            if result is config:
                result = config.copy()
            node.arguments[key] = value
            OmegaConf.update(result, f"{node.where}.{key}", value, force_add=True)
    if problems:
        raise RequestError(problems)
    return result


def _walk(value: Any) -> Iterator[Node]:
    """Yields all nodes in a value, which can be nested in lists, dictionaries and other nodes.

    A node is yielded before the nodes in its arguments.
    """
    if isinstance(value, Node):
        yield value
        value = value.arguments
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        yield from _walk(item)
