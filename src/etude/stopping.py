"""Signals are acknowledged, and a process ends in time, whatever its main thread is doing.

Python runs a signal's handler in the main thread between two of its own instructions. A long
operation of a library, a compilation or an import delays it by minutes. The interpreter's C code
writes each signal to a pipe at once; here a thread reads that pipe. It says on standard error that
the signal has come and, where the process is to end, ends it after `PATIENCE` seconds if the main
thread has not.

What can still delay both: native code that does not let other Python threads run.
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

HANDLED = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""What asks a process to stop."""
PATIENCE = 1.3
"""Seconds in which the main thread can end by itself: those who asked wait for two."""
_TO_CLEAN = 0.4
"""Seconds for what is to be recorded when the process is ended from here."""
SIGNALLED = 128
"""Exit codes of signals begin above it."""


class Saving(Protocol):
    """Work that saves its state at the first signal, if it has any, and then ends by itself."""

    told: str

    def saves(self) -> bool:
        """Whether there is a state to be saved; else the first signal ends the process."""


class _Watch:
    """The thread, and what it goes by.

    Attributes:
        saving: the work that is going on, the innermost last.
        asked: for which of them a first signal has come.
        at_the_end: called before the process is ended from here, the last first.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.saving: list[Saving] = []
        self.asked: set[int] = set()
        self.at_the_end: list[Callable[[], object]] = []
        self.signum: int | None = None
        self._deadline: float | None = None
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._write = write
        threading.Thread(target=self._run, daemon=True, name="signals").start()

    def forget(self) -> None:
        """In a forked child: its signals are its own, and there is no thread to read them."""
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
                    if signum in HANDLED and signal.getsignal(signum) is not signal.SIG_IGN:
                        self._heard(signum)

    def _heard(self, signum: int) -> None:
        name = signal.Signals(signum).name
        work = self.saving[-1] if self.saving else None
        if work is not None and id(work) not in self.asked and work.saves():
            self.asked.add(id(work))
            say(f"{name}: {work.told} (once more stops at once)\n")
            return
        if self._deadline is None:
            say(f"{name}: stopping at once\n")
            self.signum = signum
            self._deadline = time.monotonic() + self.patience

    def _end(self) -> None:
        """The process is gone when this returns; what was to be recorded has been tried."""
        cleaning = threading.Thread(target=self._clean, daemon=True)
        cleaning.start()
        cleaning.join(_TO_CLEAN)  # a file system may not answer
        leave(SIGNALLED + (self.signum or signal.SIGTERM))

    def _clean(self) -> None:
        for clean in reversed(self.at_the_end):
            with suppress(Exception):
                clean()


_watch: _Watch | None = None


def watch_signals(patience: float = PATIENCE) -> None:
    """From now on signals to this process are acknowledged and heeded in time.

    For processes that are Étude's own, from their main thread; a notebook's or a test's process is
    not ended by us. Handlers of Python must be installed for the signals: this changes none.

    Args:
        patience: seconds in which the main thread can end by itself.
    """
    global _watch
    if threading.current_thread() is threading.main_thread() and _watch is None:
        _watch = _Watch(patience)


def stopped_by() -> int | None:
    """The signal at which this process stops at once, if one has come."""
    return _watch.signum if _watch is not None else None


def is_watching() -> bool:
    """Whether somebody else than a handler acknowledges signals."""
    return _watch is not None


@contextmanager
def on_a_hard_end(clean: Callable[[], object]) -> Iterator[None]:
    """Within, `clean` is called, from another thread, before the process is ended by force."""
    if _watch is None:
        yield
        return
    _watch.at_the_end.append(clean)
    try:
        yield
    finally:
        _watch.at_the_end.remove(clean)


def begin_saving(work: Saving) -> None:
    """From now on the first signal is `work`'s, until `end_saving`; once is enough."""
    if _watch is not None and work not in _watch.saving:
        _watch.asked.discard(id(work))
        _watch.saving.append(work)


def end_saving(work: Saving) -> None:
    """Undoes `begin_saving`."""
    if _watch is not None and work in _watch.saving:
        _watch.saving.remove(work)


def say(text: str) -> None:
    """Writes to standard error by the system alone: its stream may be in the middle of a write."""
    with suppress(OSError):  # of a terminal that is gone
        os.write(2, text.encode())


def finish() -> None:
    """Waits for threads and calls what is to be called at the end, as Python does when it ends.

    What Python does besides, taking all modules and objects apart, takes a second after torch was
    imported; `os._exit` leaves it out.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


def leave(code: int) -> None:
    """Ends this process at once, and with it those that it has started."""
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    os._exit(code)


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have; where /proc says so."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for file in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with suppress(OSError, ValueError):
                some = [int(word) for word in file.read_text(encoding="ascii").split()]
                found += some
                waiting += some
    return found


def _in_a_forked_child() -> None:
    global _watch
    if _watch is not None:
        signal.set_wakeup_fd(-1)
        _watch.forget()
        _watch = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_forked_child)
