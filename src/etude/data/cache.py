"""Cache folders, each built once and atomically by the first process that needs it.

To build a folder, a process locks a lock file, writes the folder under a temporary name, flushes it
to disk and renames it. So the final name never refers to an incomplete folder, even if the process
is killed. A process needs no lock to use a folder that has its final name.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from etude.errors import Problem, RequestError
from etude.records.files import fsync_file
from etude.records.storage import try_lock

log = logging.getLogger("etude.data")

_only_looking: ContextVar[bool] = ContextVar("only_looking", default=False)

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class NotBuilt(Exception):
    """Raised by `build_once` inside `forbid_building` if the requested folder is missing."""


@contextmanager
def forbid_building() -> Iterator[None]:
    """Context manager in which `build_once` raises `NotBuilt` instead of building a folder."""
    token = _only_looking.set(True)
    try:
        yield
    finally:
        _only_looking.reset(token)


def build_once(cache_dir: Path, key: str, build: Callable[[Path], None]) -> Path:
    """Returns the path of the folder `cache_dir/key`, and first creates the folder if missing.

    If another process is building the folder, the call waits for it, provided that the file system
    supports locks.

    Args:
        cache_dir: parent folder; created if missing.
        key: name of the folder; calls with the same key must build the same contents.
        build: function that writes the contents into an empty folder, whose path is the argument.
            The empty folder has a temporary name, and is renamed to `cache_dir/key` afterwards.

    Raises:
        RequestError: if `cache_dir` can't be written, or the disk is full.
        NotBuilt: if the folder is missing and the call is inside `forbid_building`.
    """
    final = cache_dir / key
    if final.is_dir():
        return final
    if _only_looking.get():
        raise NotBuilt(str(final))
    with _convert_errors(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(cache_dir / f"{key}.lock"):
            if final.is_dir():
                return final
            _remove_partial(cache_dir)
            partial = cache_dir / f"{key}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                build(partial)
                for path in [*partial.iterdir(), partial]:
                    fsync_file(path)
                partial.rename(final)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            fsync_file(cache_dir)
    return final


def _remove_partial(cache_dir: Path) -> None:
    """Removes the incomplete folders in `cache_dir` that no process is building any more.

    An incomplete folder is called `KEY.partial`; a process that builds it locks `KEY.lock`.
    """
    for partial in cache_dir.glob("*.partial"):
        try:
            with partial.with_suffix(".lock").open("a") as file:
                if not try_lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB):
                    continue
                shutil.rmtree(partial, ignore_errors=True)
        except OSError:  # it is being built, or belongs to another user
            continue


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The lock is released when the process ends. The file is not removed: otherwise two
    # processes could hold locks on two files of the same name.
    with path.open("a") as file:
        try:
            if not try_lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB):
                log.warning(
                    "%s: the file system does not support locks (flock); do not prepare the same "
                    "data in two processes at once",
                    path.parent,
                )
        except BlockingIOError:
            log.info("waiting for another process to prepare the same data (lock file %s)", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _convert_errors(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            expected = "free disk space for the prepared data"
            hint = "the disk is full, or its quota is used up; incomplete files were removed"
        elif error.filename is None or Path(error.filename).is_relative_to(cache_dir):
            expected, hint = "a writable folder for prepared data", error.strerror or str(error)
        else:
            raise
        raise RequestError(Problem("run.cache", expected, str(cache_dir), hint)) from error
