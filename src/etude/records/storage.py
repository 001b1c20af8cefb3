"""Capabilities that records need of a file system, and the consequences where they are missing.

Some network and user-space file systems (NFS without locks, some FUSE, 9p and CIFS) have no `flock`
or cannot flush a folder. `check_root` tests this once before training, and raises unless
`run.unsafe_storage=true`. The functions that lock and flush continue without.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from etude.errors import Problem, RequestError

log = logging.getLogger("etude")

UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""Error numbers of calls that the file system does not support."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
MIN_FREE_BYTES = 64 * 2**20
"""Minimum free space in bytes."""

_LOCKS = "locks (flock), which keep two processes from training the same run at once"
_FILES = "fsync of files, without which the last writes may be lost in a power failure"
_FOLDERS = "fsync of folders, without which the last checkpoint may be lost in a power failure"


def try_lock(file: int, operation: int) -> bool:
    """Calls `flock`; returns false if the file system has no locks.

    Raises:
        BlockingIOError: another process has the lock, and `operation` does not wait.
    """
    return _try_call(lambda: fcntl.flock(file, operation))


def try_fsync(descriptor: int) -> bool:
    """Calls `fsync` on a file or a folder; returns false if the file system does not support it."""
    return _try_call(lambda: os.fsync(descriptor))


def _try_call(call: Callable[[], None]) -> bool:
    try:
        call()
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True


def check_root(folder: Path, *, unsafe: bool = False) -> None:
    """Checks that records can be written in `folder`. Leaves no files.

    Args:
        folder: a root of records or a run's folder; may be missing.
        unsafe: whether to train, with a warning, if the file system has no locks or cannot flush.

    Raises:
        RequestError: with the path and the missing capability.
    """
    import tempfile  # slow to import, and only needed to write

    existing = nearest_existing_folder(folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RequestError(Problem("run.root", "a writable folder", str(existing)))
    check_free(existing)
    try:
        descriptor, name = tempfile.mkstemp(prefix=".etude-", suffix=".tmp-try", dir=existing)
        try:
            os.unlink(name)
            os.write(descriptor, b"?")
            supported = {
                _LOCKS: try_lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB),
                _FILES: try_fsync(descriptor),
            }
        finally:
            os.close(descriptor)
        folder_descriptor = os.open(existing, os.O_RDONLY | os.O_DIRECTORY)
        try:
            supported[_FOLDERS] = try_fsync(folder_descriptor)
        finally:
            os.close(folder_descriptor)
    except OSError as error:
        full = error.errno in DISK_FULL
        expected = "free disk space" if full else "a writable folder"
        problem = Problem("run.root", expected, str(existing), error.strerror)
        raise RequestError(problem) from error
    unsupported = [capability for capability, is_supported in supported.items() if not is_supported]
    if unsupported and not unsafe:
        hint = "to train without it, set run.unsafe_storage=true"
        raise RequestError(
            Problem("run.root", f"a file system with {capability}", str(existing), hint)
            for capability in unsupported
        )
    for capability in unsupported:
        log.warning("run.unsafe_storage: %s has no %s", existing, capability)


def nearest_existing_folder(folder: Path) -> Path:
    """Returns the innermost existing folder among a folder and its parents.

    Raises:
        RequestError: it is not a folder.
    """
    existing = next(path for path in (folder, *folder.parents, Path(".")) if path.exists())
    if not existing.is_dir():
        raise RequestError(Problem("run.root", "a folder", str(existing)))
    return existing


def check_free(existing: Path) -> None:
    """Checks that there is enough free space.

    Raises:
        RequestError: with the free space.
    """
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        raise RequestError(
            Problem(
                "run.root",
                f"a disk with at least {MIN_FREE_BYTES // 2**20} MiB free",
                str(existing),
                f"it has {free / 2**20:.0f} MiB",
            )
        )


def check_new(root: Path, name: str, *, unsafe: bool) -> None:
    """Calls `check_root` if the root contains no run of this name.

    Otherwise the runs may be finished and are only read, possibly from a read-only root.
    """
    if not any((root / name).glob("*/run.json")):
        check_root(root / name, unsafe=unsafe)
