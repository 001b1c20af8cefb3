"""Settings of glibc's malloc that keep freed memory for the next training step."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_NEVER = 2**31 - 1
_LARGEST = 32 * 2**20
"""Size in bytes from which a block is not retained: the maximum of glibc's dynamic threshold
(mallopt(3))."""


@contextmanager
def retain_memory() -> Iterator[None]:
    """Context manager in which glibc retains freed CPU memory; releases it on exit.

    By default glibc returns freed memory to the system, which fills its pages with zeros again in
    the next step. Retained memory is reused instead. The process may use more memory than its
    tensors need at once, because of fragmentation. Blocks above 32 MB, such as the logits over a
    large vocabulary, are therefore not retained; `etude.huge_pages` makes it cheap to allocate such
    blocks again.

    Does nothing with another C library, or if the environment configures malloc (`MALLOC_*`,
    `GLIBC_TUNABLES`).
    """
    library = _library()
    if library is None:
        yield
        return
    library.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        library.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST)
        library.malloc_trim(0)


def _library() -> ctypes.CDLL | None:
    is_configured = any(name.startswith("MALLOC_") for name in os.environ) or (
        "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    )
    if is_configured or platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
