"""Checks that a file system has the capabilities that saving runs requires: locks and `fsync`.

Some network and user-space file systems (NFS without locks, some FUSE, 9p and CIFS) have no `flock`
or cannot flush a folder. `check_root` tests both once before training, and raises an error unless
`run.unsafe_storage=true`. On such file systems, `try_lock` and `try_fsync` return false.
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
"""Numbers of the errors that mean that a file system does not support a call."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
MIN_FREE_BYTES = 64 * 2**20
"""Minimum free space in bytes."""

_LOCKS = "locks (flock), which prevent two processes from training the same run at once"
_FILES = "fsync of files, without which the last writes may be lost in a power failure"
_FOLDERS = "fsync of folders, without which the last checkpoint may be lost in a power failure"


def try_lock(file: int, operation: int) -> bool:
    """Calls `flock`; returns false if the file system has no locks.

    Args:
        file: descriptor of the lock file.
        operation: operation of `flock`, such as `LOCK_EX | LOCK_NB`.

    Raises:
        BlockingIOError: another process has the lock, and `operation` contains `LOCK_NB`.
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
    """Checks that runs can be saved in `folder`; leaves no files there.

    Args:
        folder: the folder of all runs, or the folder of one run; may be missing.
        unsafe: if true, a file system without locks or `fsync` causes only a warning.

    Raises:
        RequestError: the folder is not writable, its disk is full, or its file system lacks a
            capability and `unsafe` is false.
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
        hint = "to train without this capability, set run.unsafe_storage=true"
        raise RequestError(
            Problem("run.root", f"a file system with {capability}", str(existing), hint)
            for capability in unsupported
        )
    for capability in unsupported:
        message = (
            "the file system of %s does not support %s; runs are saved there nevertheless,"
            " because run.unsafe_storage=true is set"
        )
        log.warning(message, existing, capability)


def nearest_existing_folder(folder: Path) -> Path:
    """Returns the innermost existing folder among a folder and its parents.

    Raises:
        RequestError: the innermost existing path is not a folder.
    """
    existing = next(path for path in (folder, *folder.parents, Path(".")) if path.exists())
    if not existing.is_dir():
        raise RequestError(Problem("run.root", "a folder", str(existing)))
    return existing


def check_free(existing: Path) -> None:
    """Checks that the disk that contains the folder `existing` has at least 64 MiB of free space.

    Raises:
        RequestError: less than 64 MiB are free.
    """
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        raise RequestError(
            Problem(
                "run.root",
                f"a disk with at least {MIN_FREE_BYTES // 2**20} MiB free",
                str(existing),
                f"only {free / 2**20:.0f} MiB are free",
            )
        )


def check_new(root: Path, name: str, *, unsafe: bool) -> None:
    """Checks that a run can be saved, unless a run of the same name exists already.

    An existing run may be finished. Then it is only read, so its folder may be read-only. The
    errors are those of `check_root`.

    Args:
        root: the folder of all runs.
        name: the run's name.
        unsafe: as for `check_root`.
    """
    if not any((root / name).glob("*/run.json")):
        check_root(root / name, unsafe=unsafe)
