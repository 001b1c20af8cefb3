"""Thread that acknowledges signals at once, and ends the process even if the main thread is busy.

Python runs signal handlers in the main thread, between two bytecode instructions. A long library
call, a compilation or an import can delay them by minutes. The interpreter's C code writes each
signal to a pipe at once; a thread of this module reads the pipe, acknowledges the signal on
standard error and, if the process must end, ends it after `PATIENCE` seconds unless the main thread
has ended it before.

Native code that does not release the GIL delays this thread as well.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""The signals that stop a process."""
PATIENCE = 1.3
"""Seconds that the main thread has to end by itself; the whole shutdown takes less than two."""
_CLEANUP_SECONDS = 0.4
"""Seconds for the cleanup functions before the process is killed."""
SIGNALLED = 128
"""Offset of exit codes: a process stopped by signal N ends with exit code `SIGNALLED + N`."""


class Saving(Protocol):
    """Protocol of work, such as training, that saves its state after a signal and then ends.

    Attributes:
        notice: text that states what the work does after the first signal; it is printed when this
            signal arrives.
    """

    notice: str

    def saves(self) -> bool:
        """Returns whether the work has state to save.

        If so, the first signal lets the work save its state. If not, the first signal ends the
        process at once.
        """


class _Watch:
    """Watcher of this process's signals, which starts its own thread.

    Args:
        patience: see `watch_signals`.

    Attributes:
        saving: list of the registered work (see `begin_saving`). The first signal lets the last
            item, the innermost work, save its state.
        signalled: `id` of each item of `saving` that has received its first signal.
        at_the_end: cleanup functions, called in reverse order before the process is killed.
        signum: number of the signal that ends the process; None if there was none.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.saving: list[Saving] = []
        self.signalled: set[int] = set()
        self.at_the_end: list[Callable[[], object]] = []
        self.signum: int | None = None
        self._deadline: float | None = None
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._write = write
        threading.Thread(target=self._run, daemon=True, name="signals").start()

    def forget(self) -> None:
        """Closes the pipe of signals in a forked child, in which no thread watches signals."""
        for descriptor in (self._read, self._write):
            with suppress(OSError):
                os.close(descriptor)

    def _run(self) -> None:
        while True:
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                self._end()
            ready, _, _ = select.select([self._read], [], [], left)
            if ready:
                for signum in os.read(self._read, 64):
                    if signum in STOP_SIGNALS and signal.getsignal(signum) is not signal.SIG_IGN:
                        self._handle(signum)

    def _handle(self, signum: int) -> None:
        name = signal.Signals(signum).name
        work = self.saving[-1] if self.saving else None
        if work is not None and id(work) not in self.signalled and work.saves():
            self.signalled.add(id(work))
            write_stderr(f"{name}: {work.notice} (send it again to stop at once)\n")
            return
        if self._deadline is None:
            write_stderr(f"{name}: stopping at once\n")
            self.signum = signum
            self._deadline = time.monotonic() + self.patience

    def _end(self) -> None:
        """Runs the cleanup functions for a limited time, then kills the process."""
        cleaning = threading.Thread(target=self._clean, daemon=True)
        cleaning.start()
        cleaning.join(_CLEANUP_SECONDS)  # a file system may hang
        kill_process(SIGNALLED + (self.signum or signal.SIGTERM))

    def _clean(self) -> None:
        for clean in reversed(self.at_the_end):
            with suppress(Exception):
                clean()


_watch: _Watch | None = None


def watch_signals(patience: float = PATIENCE) -> None:
    """Starts watching the signals of this process.

    A thread then acknowledges each signal, and ends the process if the main thread does not. To be
    called from the main thread of Étude's own processes, not in a notebook or a test. The installed
    signal handlers don't change. Signals without a Python handler are not watched.

    Args:
        patience: seconds after a signal in which the main thread can end the process by itself.
    """
    global _watch
    if threading.current_thread() is threading.main_thread() and _watch is None:
        _watch = _Watch(patience)


def stop_signal() -> int | None:
    """Returns the number of the signal that is ending this process at once.

    Returns None if no signal is ending the process, or if signals are not watched.
    """
    return _watch.signum if _watch is not None else None


def is_watching() -> bool:
    """Returns whether a thread of this module watches the signals of this process."""
    return _watch is not None


@contextmanager
def cleanup_on_kill(clean: Callable[[], object]) -> Iterator[None]:
    """Context manager: if a signal kills the process during the block, `clean` is called first.

    The function is called in another thread, and only if `watch_signals` was called. Functions of
    nested blocks are called in reverse order, the innermost first. After 0.4 seconds in all, the
    process is killed even if they have not returned.
    """
    if _watch is None:
        yield
        return
    _watch.at_the_end.append(clean)
    try:
        yield
    finally:
        _watch.at_the_end.remove(clean)


def begin_saving(work: Saving) -> None:
    """Registers `work`, so that the first signal lets this work save its state.

    Only a second signal ends the process at once. A repeated call for the same work has no effect.
    The function `end_saving` unregisters the work.
    """
    if _watch is not None and work not in _watch.saving:
        _watch.signalled.discard(id(work))
        _watch.saving.append(work)


def end_saving(work: Saving) -> None:
    """Unregisters `work`, which `begin_saving` registered.

    A later signal then ends the process at once, unless other work is registered.
    """
    if _watch is not None and work in _watch.saving:
        _watch.saving.remove(work)


def write_stderr(text: str) -> None:
    """Writes a text to standard error by a system call.

    `sys.stderr` is not used, because it may be in the middle of a write.
    """
    with suppress(OSError):  # the terminal may be closed
        os.write(2, text.encode())


def finish() -> None:
    """Waits for the non-daemon threads and runs the handlers that `atexit` has registered.

    Python does the same when a process ends.

    Python would then also destroy all modules and objects, which takes a second if torch is
    imported. The caller skips this by ending the process with `os._exit`.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


def kill_process(code: int) -> None:
    """Kills all descendant processes, and ends this process at once with the exit code `code`."""
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    os._exit(code)


def descendants(pid: int) -> list[int]:
    """Returns the ids of all child processes of the process `pid`, of their children, and so on.

    The process `pid` itself is not included. The list is empty on systems without /proc.
    """
    pids: list[int] = []
    waiting = [pid]
    while waiting:
        for file in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with suppress(OSError, ValueError):
                children = [int(word) for word in file.read_text(encoding="ascii").split()]
                pids += children
                waiting += children
    return pids


def _in_a_forked_child() -> None:
    global _watch
    if _watch is not None:
        signal.set_wakeup_fd(-1)
        _watch.forget()
        _watch = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_forked_child)
