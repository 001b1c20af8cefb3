"""Names that can come to mean something else, fixed to what they mean now.

A branch of a repository on a hub moves, and a run is a function of its config. So before a
config is hashed, such a name becomes what it stands for, in the config too, and so in the record.

A constructor takes part by a class method `pinned(arguments)`: it is given the arguments that the
config states, checked, and returns those to put in their place (a commit for a branch). It may
ask the network, must give back what is fixed already without doing so, and raises
`InvalidArguments` where it can't tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from etude.config.nodes import Node
from etude.errors import InvalidArguments, Problem, RequestError


def pin(config: DictConfig, nodes: Iterable[Node]) -> DictConfig:
    """Fixes the arguments of `nodes`, and returns a config that states them so.

    Args:
        config: left as it is.
        nodes: checked; changed where one of them, or of those in it, has something to fix.

    Raises:
        RequestError: with everything that can't be told.
    """
    problems: list[Problem] = []
    result = config
    for node in _all(list(nodes)):
        if not node.described.pins:
            continue
        try:
            found: dict[str, Any] = node.constructor.pinned(dict(node.arguments))
        except InvalidArguments as error:
            problems += [problem.under(node.where) for problem in error.problems]
            continue
        for key, value in found.items():
            if result is config:
                result = config.copy()
            node.arguments[key] = value
            OmegaConf.update(result, f"{node.where}.{key}", value, force_add=True)
    if problems:
        raise RequestError(problems)
    return result


def _all(value: Any) -> Iterator[Node]:
    """The nodes in a value, each before those in its arguments."""
    if isinstance(value, Node):
        yield value
        value = value.arguments
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        yield from _all(item)
