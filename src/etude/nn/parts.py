"""What a part's factory is told beside what every part of its slot must take.

A constructor that names `layer` (the number of its block, from 0) or `layers` (how many there are)
gets it; one that doesn't is called without.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

Part = Callable[..., Any]
"""A class, a function, a `functools.partial` of one, or what has a method `names_left`."""


def asked(part: Part, **offered: Any) -> dict[str, Any]:
    """Those of the offered arguments that the part names, and that nobody has stated for it."""
    names = names_left(part)
    return {name: value for name, value in offered.items() if name in names}


def names_left(part: Part) -> frozenset[str]:
    """The arguments that a part names and that are still to be given.

    A factory of another kind says it by a method of this name (`etude.config.nodes.Factory`).
    """
    if isinstance(part, partial):
        return names_left(part.func) - part.keywords.keys()
    tell = None if isinstance(part, type) else getattr(part, "names_left", None)
    if tell is not None:
        return frozenset(tell())
    try:
        parameters = inspect.signature(part).parameters.values()
    except ValueError:  # classes of the interpreter's own have none
        return frozenset()
    return frozenset(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
