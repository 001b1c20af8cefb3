"""How often Python looks for objects that refer to each other in circles.

Each search visits what is there; imports make hundreds of thousands of objects, none of which is
garbage. Searching as often as usual takes half a second of every command's start.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_USUAL = gc.get_threshold()
_RARELY = (50_000, 20, 100)


def collect_rarely() -> None:
    """Searches after 50,000 new objects: for a command that has begun, and imports."""
    gc.set_threshold(*_RARELY)


@contextmanager
def rarely() -> Iterator[None]:
    """Within, as rarely, and only among new objects: for work that makes many, and no circles."""
    usual, frozen = gc.get_threshold(), gc.get_freeze_count()
    gc.freeze()
    gc.set_threshold(*_RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        if not frozen:
            gc.unfreeze()


def collect_as_usual() -> None:
    """Searches as often as Python does, and only among objects that are made from now on: for a
    loop that is about to begin, and before a fork, whose processes share what is never visited.
    """
    if gc.get_threshold() == _RARELY:
        gc.freeze()
        gc.set_threshold(*_USUAL)
