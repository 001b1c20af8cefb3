"""Locks of runs: only one process at a time can hold the lock of a run.

The lock is acquired with `flock`; the operating system frees it when the process exits. The lock
file contains the host and the id of the process that holds the lock, and is empty after the
release. Hosts that share a disk but not its locks can check only this content: a run that a process
on another host did not release is taken over only with `run.force=true`. On a file system without
locks (`run.unsafe_storage=true`), a run counts as held if the process id in the file is in use.

Child processes do not hold the lock: after the process that acquired it was killed, workers of its
data loader continue for some seconds, and the run can be started again meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from weakref import WeakSet

from etude.errors import RequestError, RunHeld
from etude.records.files import create_folder
from etude.records.opening import LOCK, open_file, open_for_append, read_bytes
from etude.records.storage import try_lock

LOCK_FILE = ".lock"
_PATIENCE = 0.5  # seconds; `is_held` holds a shared lock for an instant


class RunLock:
    """Exclusive lock on a run's folder.

    Args:
        folder: the run's folder; created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_FILE
        self._file: IO[bytes] | None = None
        _LOCKS.add(self)

    def acquire(
        self, *, wait: bool = False, force: bool = False, patience: float = _PATIENCE
    ) -> None:
        """Acquires the lock.

        Args:
            wait: whether to wait, without a time limit, until another process releases the lock.
            force: whether to take over a lock that a process on another host did not release or, on
                a file system without locks, a lock whose process id is in use on this host.
            patience: seconds to retry if `wait` is false.

        Raises:
            RunHeld: another live process holds the lock and `wait` is false, or a process on
                another host may hold the lock.
            RequestError: the lock file is not a regular file.
        """
        end = time.monotonic() + patience
        while (file := self._try_lock(force)) is None:
            if time.monotonic() > end and not wait:
                message = (
                    f"{self.path.parent} is locked by {_describe_holder(read_holder(self.path))}"
                )
                raise RunHeld(message, folder=self.path.parent)
            time.sleep(0.2 if wait else 0.005)
        if not force and _is_on_other_host(current := read_holder(self.path)):
            file.close()
            raise RunHeld(
                f"{self.path.parent} is locked by {_describe_holder(current)};"
                " this host cannot check whether that process is still running",
                "if that process has ended, set run.force=true to take over the run",
                self.path.parent,
            )
        file.truncate(0)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        content = {"host": socket.gethostname(), "pid": os.getpid(), "since": now}
        file.write(json.dumps(content).encode())
        file.flush()
        self._file = file

    def _try_lock(self, force: bool) -> IO[bytes] | None:
        """Returns the open, locked lock file.

        Returns None if another process holds the lock or has just removed the file. On a file
        system without locks, a process holds the lock if its id, which the file contains, is in
        use; `force` ignores this. Processes on other hosts are not checked here.
        """
        create_folder(self.path.parent)
        try:
            file = open_for_append(self.path, LOCK, readable=True)  # held until `release`
        except FileNotFoundError:  # the holder has just removed the folder
            return None
        try:
            locks = try_lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not locks and not force and _is_alive_here(read_holder(self.path)):
                raise BlockingIOError
            if os.path.samestat(os.fstat(file.fileno()), os.lstat(self.path)):
                return file
        except (BlockingIOError, FileNotFoundError):
            pass
        file.close()
        return None

    def release(self) -> None:
        """Releases the lock.

        The lock file is not deleted, as another process may be about to lock it.
        """
        if self._file is not None:
            self._file.truncate(0)
            # Closing is not enough: a child process that was just forked has the same lock.
            try_lock(self._file.fileno(), fcntl.LOCK_UN)
            self.close()

    def close(self) -> None:
        """Closes the lock file in this process; a parent process keeps the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None


_LOCKS: WeakSet[RunLock] = WeakSet()
"""The locks of this process."""


def _close_inherited_locks() -> None:
    for lock in list(_LOCKS):
        lock.close()


os.register_at_fork(after_in_child=_close_inherited_locks)


def is_held(folder: Path) -> bool:
    """Returns whether a live process holds the lock of the run in `folder`.

    Processes on other hosts are assumed to be alive. A run whose lock file is missing, or is not a
    regular file, counts as not held.
    """
    try:
        with open_file(folder / LOCK_FILE, LOCK) as file:
            locks = try_lock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            current = read_holder(folder / LOCK_FILE)
            return _is_on_other_host(current) or (not locks and _is_alive_here(current))
    except (FileNotFoundError, RequestError):
        return False
    except BlockingIOError:
        return True


def read_holder(path: Path) -> dict[str, Any]:
    """Returns the content of a lock file: the process that holds the lock.

    The keys of the dictionary are `host`, `pid` (process id) and `since` (time). The dictionary is
    empty if the lock was released, or if the file is missing or unreadable. A process that was
    killed is still in the file; `is_held` returns whether the lock is held.
    """
    try:
        content = json.loads(read_bytes(path, LOCK).decode())
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError, RecursionError, RequestError):
        return {}


def _is_on_other_host(info: dict[str, Any]) -> bool:
    """Returns whether the process that holds a lock runs on another host.

    From this host, such a process cannot be checked. `info` is the content of the lock file.
    """
    return bool(info) and info.get("host") != socket.gethostname()


def _is_alive_here(info: dict[str, Any]) -> bool:
    """Returns whether the process named in a lock file is alive on this host.

    `info` is the content of the lock file. The function is used on file systems without `flock`.
    """
    pid = info.get("pid")
    if not isinstance(pid, int) or pid <= 0 or _is_on_other_host(info):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process, so it is alive
        pass
    return True


def _describe_holder(info: dict[str, Any]) -> str:
    if not info:
        return "another process"
    return f"process {info.get('pid')} on {info.get('host')} since {info.get('since')}"
