"""Ctrl-C in a notebook or a script: it takes effect after an import, not in the middle of it.

An interrupted import leaves modules that are partly initialised, so that all later calls fail. A
command ends anyway; the kernel of a notebook goes on.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from etude.errors import Interrupted
from etude.stopping import is_watching

_INTERFACE = str(Path(__file__).parent / "api" / "functions.py")
_IMPORT = "<frozen importlib._bootstrap>"
_SECONDS_BETWEEN_TRIES = 0.1
_LONGEST = 30.0
"""Seconds after which an import is interrupted nevertheless."""

_deferred_since: float | None = None


@contextmanager
def interruptible() -> Iterator[None]:
    """Context manager in which Ctrl-C raises `Interrupted`, but not in the middle of an import.

    Does nothing outside the main thread and in commands, which have their own handlers.

    Raises:
        Interrupted: the user pressed Ctrl-C.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or is_watching():
        yield
        return
    before: Any = signal.getsignal(signal.SIGINT)

    def handle(signum: int, frame: FrameType | None) -> None:
        if not defer(signum, frame) and callable(before):
            before(signum, frame)

    if callable(before):
        signal.signal(signal.SIGINT, handle)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(signal.SIGINT, "interrupted before the first step") from None
    finally:
        if callable(before):
            signal.signal(signal.SIGINT, before)


def defer(signum: int, frame: FrameType | None) -> bool:
    """Sends a signal to this process again a little later, if it has interrupted an import.

    Args:
        signum: number of the signal.
        frame: the interrupted frame.

    Returns:
        Whether the signal was deferred, so that its handler must do nothing now.
    """
    global _deferred_since
    now = time.monotonic()
    if is_watching() or not _is_importing(frame):
        _deferred_since = None
        return False
    _deferred_since = _deferred_since or now
    if now - _deferred_since > _LONGEST:
        return False
    timer = threading.Timer(_SECONDS_BETWEEN_TRIES, os.kill, (os.getpid(), signum))
    timer.daemon = True
    timer.start()
    return True


def _is_importing(frame: FrameType | None) -> bool:
    """Returns whether Étude imports a module in this frame or in its callers."""
    while frame is not None and frame.f_code.co_filename != _INTERFACE:
        if frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False
