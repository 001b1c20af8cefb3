"""What records need of a file system, and what is lost where it cannot do that.

Some network file systems and some in user space (NFS without locks, some of FUSE, 9p and CIFS)
have no `flock`, or cannot flush a folder. `check_root` asks once, before anything is trained, and
refuses unless `run.unsafe_storage=true`. The functions that lock and flush go on without.
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

LACKING = frozenset({errno.EINVAL, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors of a call that the file system does not have."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
LEAST_FREE = 64 * 2**20
"""Bytes."""

_LOCKS = "locks (flock): two processes could train the same run at once and spoil its record"
_FILES = "flushed files (fsync): what was written last may be gone after a power cut"
_FOLDERS = "flushed folders (fsync): the last checkpoint may be gone after a power cut"


def lock(file: int, operation: int) -> bool:
    """`flock`; false where the file system has no locks.

    Raises:
        BlockingIOError: another process has the lock, and `operation` does not wait.
    """
    return _done(lambda: fcntl.flock(file, operation))


def sync(descriptor: int) -> bool:
    """`fsync` of a file or a folder; false where the file system cannot do it."""
    return _done(lambda: os.fsync(descriptor))


def _done(call: Callable[[], None]) -> bool:
    try:
        call()
    except OSError as error:
        if error.errno in LACKING:
            return False
        raise
    return True


def check_root(folder: Path, *, unsafe: bool = False) -> None:
    """Tries whether records can be written in `folder`: nothing stays of the attempt.

    Args:
        folder: a root of records or a run's folder; may not exist.
        unsafe: train even where the file system lacks locks or cannot flush; a warning says so.

    Raises:
        RequestError: names the path, and what is missing.
    """
    import tempfile  # slow to import, and reading commands need none

    existing = existing_part(folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RequestError(Problem("run.root", "a folder that can be written", str(existing)))
    check_free(existing)
    try:
        descriptor, name = tempfile.mkstemp(prefix=".etude-", suffix=".tmp-try", dir=existing)
        try:
            os.unlink(name)
            os.write(descriptor, b"?")
            able = {
                _LOCKS: lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB),
                _FILES: sync(descriptor),
            }
        finally:
            os.close(descriptor)
        place = os.open(existing, os.O_RDONLY | os.O_DIRECTORY)
        try:
            able[_FOLDERS] = sync(place)
        finally:
            os.close(place)
    except OSError as error:
        full = error.errno in FULL
        expected = "room for a file" if full else "a folder that can be written"
        problem = Problem("run.root", expected, str(existing), error.strerror)
        raise RequestError(problem) from error
    lost = [guarantee for guarantee, there in able.items() if not there]
    if lost and not unsafe:
        hint = "run.unsafe_storage=true trains without"
        raise RequestError(
            Problem("run.root", f"a file system with {missing}", str(existing), hint)
            for missing in lost
        )
    for missing in lost:
        log.warning("run.unsafe_storage: %s has no %s", existing, missing)


def existing_part(folder: Path) -> Path:
    """The innermost of a folder and those above it that exists.

    Raises:
        RequestError: it is no folder.
    """
    existing = next(path for path in (folder, *folder.parents, Path(".")) if path.exists())
    if not existing.is_dir():
        raise RequestError(Problem("run.root", "a folder", str(existing)))
    return existing


def check_free(existing: Path) -> None:
    """There is some room.

    Raises:
        RequestError: says how much there is.
    """
    free = shutil.disk_usage(existing).free
    if free < LEAST_FREE:
        raise RequestError(
            Problem(
                "run.root",
                f"a disk with at least {LEAST_FREE // 2**20} MiB free",
                str(existing),
                f"it has {free / 2**20:.0f} MiB",
            )
        )


def check_new(root: Path, name: str, *, unsafe: bool) -> None:
    """`check_root` for a run that is surely new, as the root has none of its name.

    Others may be finished, and are then only read, also from a root that cannot be written.
    """
    if not any((root / name).glob("*/run.json")):
        check_root(root / name, unsafe=unsafe)
