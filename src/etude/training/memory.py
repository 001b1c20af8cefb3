"""Memory that one training step frees and the next one takes again."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_NEVER = 2**31 - 1
_LARGEST = 32 * 2**20
"""Bytes to which glibc lets its threshold grow by itself (mallopt(3))."""


@contextmanager
def keeping_memory() -> Iterator[None]:
    """Within, the C library keeps the memory that tensors on the CPU give back; afterwards the
    system gets it.

    The C library of most Linux systems asks the system for each tensor above 32 MB, such as the
    logits over a large vocabulary, and returns it as soon as it is free: the system fills every
    page with zeros again in every step. Kept, the memory of a step is there for the next one. What
    a process takes can be more than its tensors need at once, as pieces of memory between those in
    use may be too small.

    Nothing is done where the C library is another one, or the user's environment speaks of it
    (`MALLOC_*`, `GLIBC_TUNABLES`).
    """
    library = _library()
    if library is None:
        yield
        return
    library.mallopt(_M_MMAP_THRESHOLD, _NEVER)
    library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        library.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST)
        library.malloc_trim(0)


def _library() -> ctypes.CDLL | None:
    said = any(name.startswith("MALLOC_") for name in os.environ) or (
        "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    )
    if said or platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
