"""One process holds a run. The operating system frees the lock when that process dies.

The lock is `flock`'s; the file beside it says who has it, and says nothing once it was given back.
Between hosts that share a disk but not its locks, that text is all there is: a run whose holder on
another host never let go of it is taken over only by request. Where a file system has no locks
(`run.unsafe_storage`), that text and the process number in it are all there is on this host, too.
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

from etude.errors import RequestError, RunHeld
from etude.records.files import make_folder
from etude.records.opening import LOCK, appended, opened, read_bytes
from etude.records.storage import lock

LOCK_FILE = ".lock"
_PATIENCE = 0.5  # seconds; `is_held` takes a shared lock for an instant, which is no holder


class RunLock:
    """An exclusive lock on a run's folder.

    Args:
        folder: made if it is missing; the lock file in it says which host and process hold it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_FILE
        self._file: IO[bytes] | None = None

    def acquire(
        self, *, wait: bool = False, force: bool = False, patience: float = _PATIENCE
    ) -> None:
        """Takes the lock.

        Args:
            wait: for as long as it takes.
            force: take it although a process on another host never gave it back, or where the
                file system has no locks a process of the same number lives here.
            patience: seconds to try without `wait`.

        Raises:
            RunHeld: another live process has it and `wait` is false, or one on another host that
                may live.
            RequestError: what lies in the lock file's place is no regular file.
        """
        end = time.monotonic() + patience
        while (file := self._locked(force)) is None:
            if time.monotonic() > end and not wait:
                message = f"{self.path.parent} is held by {_said(holder(self.path))}"
                raise RunHeld(message, folder=self.path.parent)
            time.sleep(0.2 if wait else 0.005)
        if not force and _is_elsewhere(found := holder(self.path)):
            file.close()
            raise RunHeld(
                f"{self.path.parent} is held by {_said(found)}, as far as can be seen from here",
                "if that process is dead, run.force=true takes the run over",
                self.path.parent,
            )
        file.truncate(0)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        told = {"host": socket.gethostname(), "pid": os.getpid(), "since": now}
        file.write(json.dumps(told).encode())
        file.flush()
        self._file = file

    def _locked(self, force: bool) -> IO[bytes] | None:
        """The lock file, locked; None if another process has it, or removed it meanwhile."""
        make_folder(self.path.parent)
        try:
            file = appended(self.path, LOCK, readable=True)  # held until `release`
        except FileNotFoundError:  # the holder has just left without a record, folder and all
            return None
        try:
            locks = lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not locks and not force and _lives_here(holder(self.path)):
                raise BlockingIOError
            if os.path.samestat(os.fstat(file.fileno()), os.lstat(self.path)):
                return file
        except (BlockingIOError, FileNotFoundError):
            pass
        file.close()
        return None

    def release(self) -> None:
        """Gives the lock back; the file stays: removing it would race with the next holder."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None


def is_held(folder: Path) -> bool:
    """Whether a live process holds the run in `folder`; of another host's it is assumed.

    Nobody can hold one whose lock file is a link or no regular file.
    """
    try:
        with opened(folder / LOCK_FILE, LOCK) as file:
            locks = lock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            found = holder(folder / LOCK_FILE)
            return _is_elsewhere(found) or (not locks and _lives_here(found))
    except (FileNotFoundError, RequestError):
        return False
    except BlockingIOError:
        return True


def holder(path: Path) -> dict[str, Any]:
    """What the lock file says of its holder; empty for nobody, and while it is being written."""
    try:
        found = json.loads(read_bytes(path, LOCK).decode())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError, RequestError):
        return {}


def _is_elsewhere(found: dict[str, Any]) -> bool:
    """Whether the holder is on another host, where nobody can look whether it lives."""
    return bool(found) and found.get("host") != socket.gethostname()


def _lives_here(found: dict[str, Any]) -> bool:
    """Whether the holder is a living process of this host: all there is without locks."""
    pid = found.get("pid")
    if not isinstance(pid, int) or pid <= 0 or _is_elsewhere(found):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return True


def _said(found: dict[str, Any]) -> str:
    if not found:
        return "another process"
    return f"process {found.get('pid')} on {found.get('host')} since {found.get('since')}"
