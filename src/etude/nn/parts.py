"""Optional arguments of a part's factory.

A constructor that names `layer` (the index of its block, from 0) or `layers` (the number of blocks)
receives it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

Part = Callable[..., Any]
"""A class, a function, a `functools.partial` of one, or an object with `unset_arguments`."""


def accepted_arguments(part: Part, **offered: Any) -> dict[str, Any]:
    """Returns the offered arguments that the part names and that are not set already."""
    names = unset_arguments(part)
    return {name: value for name, value in offered.items() if name in names}


def unset_arguments(part: Part) -> frozenset[str]:
    """Returns the names of a part's arguments that are not set yet.

    A factory of another kind has a method of this name (`etude.config.nodes.Factory`).
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
