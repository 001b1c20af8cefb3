"""Functions that make Python's cyclic garbage collector run less often.

Each collection visits the existing objects; imports create hundreds of thousands of them, none of
which is garbage. With the default thresholds, collections take half a second of every command's
start.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_DEFAULT_THRESHOLDS = gc.get_threshold()
_RARE_THRESHOLDS = (50_000, 20, 100)


def collect_rarely() -> None:
    """Makes garbage collections rare (one per 50,000 new objects) while a command starts.

    The imports of the start create many objects, none of which is garbage.
    """
    gc.set_threshold(*_RARE_THRESHOLDS)


@contextmanager
def collect_rarely_in_block() -> Iterator[None]:
    """Context manager in which garbage collections are rare and visit only new objects.

    For work that creates many objects without reference cycles.
    """
    usual, frozen = gc.get_threshold(), gc.get_freeze_count()
    gc.freeze()
    gc.set_threshold(*_RARE_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        if not frozen:
            gc.unfreeze()


def restore_collection() -> None:
    """Restores Python's collection thresholds, and exempts all existing objects from collection.

    Called at the start of a training loop, and before a fork, because memory that no collection
    visits stays shared between the processes.
    """
    if gc.get_threshold() == _RARE_THRESHOLDS:
        gc.freeze()
        gc.set_threshold(*_DEFAULT_THRESHOLDS)
