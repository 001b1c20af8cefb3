"""Pins mutable references in a config, such as branches on a hub.

A branch can move, but a run must be a function of its config. So before a config is hashed, such a
reference is replaced by what it refers to now (a commit), also in the config that is recorded.

A constructor takes part by a class method `pinned(arguments)`. It receives the checked arguments in
the config and returns those to replace. It may access the network, but must return an argument that
is already fixed without doing so. It raises `InvalidArguments` if a reference cannot be resolved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from etude.config.nodes import Node
from etude.errors import InvalidArguments, Problem, RequestError


def pin(config: DictConfig, nodes: Iterable[Node]) -> DictConfig:
    """Pins the arguments of nodes, and returns a config with the pinned values.

    Args:
        config: the config; it is not changed.
        nodes: checked nodes; they and the nodes in their arguments are changed in place.

    Raises:
        RequestError: with all references that cannot be resolved.
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
    """Yields the nodes in a value, each before the nodes in its arguments."""
    if isinstance(value, Node):
        yield value
        value = value.arguments
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        yield from _walk(item)
