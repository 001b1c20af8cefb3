"""Optional arguments of the factories that build a model's modules.

A factory with a parameter `layer` receives the index of its block, from 0; a factory with a
parameter `layers` receives the number of blocks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

Part = Callable[..., Any]
"""Factory of a module: a class, a function, a `functools.partial` of a class or function, or an
object with a method `unset_arguments`.
"""


def accepted_arguments(part: Part, **offered: Any) -> dict[str, Any]:
    """Returns those of the keyword arguments `offered` that the factory `part` accepts.

    Arguments that the factory already sets, as a `functools.partial` may, are left out.
    """
    names = unset_arguments(part)
    return {name: value for name, value in offered.items() if name in names}


def unset_arguments(part: Part) -> frozenset[str]:
    """Returns the names of a factory's arguments that are not set yet.

    If the factory has a method `unset_arguments` (`etude.config.nodes.Factory`), the method returns
    the names.
    """
    if isinstance(part, partial):
        return unset_arguments(part.func) - part.keywords.keys()
    method = None if isinstance(part, type) else getattr(part, "unset_arguments", None)
    if method is not None:
        return frozenset(method())
    try:
        parameters = inspect.signature(part).parameters.values()
    except ValueError:  # built-in classes have no signature
        return frozenset()
    return frozenset(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
