"""Folders that are built once, by whichever process comes first, and are whole or absent.

A folder is built beside its final name, flushed to disk and renamed, under a lock file. So the
final name never shows a part of the work, whatever kills the builder, and a process that finds
the folder needs no lock to use it.
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
from etude.records.storage import lock

log = logging.getLogger("etude.data")

_only_looking: ContextVar[bool] = ContextVar("only_looking", default=False)

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class NotBuilt(Exception):
    """The folder is not there, and `only_looking` forbids to build it."""


@contextmanager
def only_looking() -> Iterator[None]:
    """Within, `built_once` finds folders and builds none: it raises `NotBuilt`."""
    token = _only_looking.set(True)
    try:
        yield
    finally:
        _only_looking.reset(token)


def built_once(cache_dir: Path, key: str, build: Callable[[Path], None]) -> Path:
    """The folder `cache_dir/key`, built by `build(folder)` if it isn't there yet.

    Args:
        cache_dir: the parent, made if it is missing.
        key: the folder's name; equal keys must mean equal contents.
        build: fills an empty folder; it is given another name than the final one.

    Raises:
        RequestError: the parent can't be written, or the disk is full.
        NotBuilt: it is not there, within `only_looking`.
    """
    final = cache_dir / key
    if final.is_dir():
        return final
    if _only_looking.get():
        raise NotBuilt(str(final))
    with _explained(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(cache_dir / f"{key}.lock"):
            if final.is_dir():
                return final
            _sweep(cache_dir)
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


def _sweep(cache_dir: Path) -> None:
    """Removes what killed builders left: partial folders that nobody holds the lock of."""
    for partial in cache_dir.glob("*.partial"):
        try:
            with partial.with_suffix(".lock").open("a") as file:
                if not lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB):
                    continue
                shutil.rmtree(partial, ignore_errors=True)
        except OSError:  # it is being built, or is somebody else's
            continue


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The lock goes with the process, however it ends. The file stays: were it removed, two
    # processes could hold locks on two files of the same name.
    with path.open("a") as file:
        try:
            if not lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB):
                log.warning(
                    "%s: the file system has no locks (flock); do not prepare the same data "
                    "with two processes at once",
                    path.parent,
                )
        except BlockingIOError:
            log.info("another process is preparing this data; waiting for %s", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _explained(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            expected, hint = "room on its disk for the prepared data", "nothing was left behind"
        elif error.filename is None or Path(error.filename).is_relative_to(cache_dir):
            expected, hint = "a folder for prepared data that can be written", str(error)
        else:
            raise
        raise RequestError(Problem(str(cache_dir), expected, hint=hint)) from error
