"""Ctrl-C and SIGTERM: the first asks for a stop at a step boundary, the second stops at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from etude.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Installed while training runs; does nothing outside the main thread.

    Args:
        told: what the first signal leads to, in words.

    Attributes:
        requested: the signal that asked for a stop, None so far.
    """

    def __init__(self, told: str = "saving after this step, then stopping") -> None:
        self.told = told
        self.requested: int | None = None
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def install(self) -> None:
        """Takes over SIGINT and SIGTERM, or takes them back from whoever came in between."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.signal(number, self._handle)
                self._before.setdefault(number, before)

    def restore(self) -> None:
        """Gives both signals back to whoever had them before the first `install`."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's worker: it ends when training does
            return
        if self.requested is not None:
            raise Interrupted(signum, "stopped at once; the last checkpoint stands")
        self.requested = signum
        # Not by the log: its stream may be in the middle of a write, which cannot be re-entered.
        name = signal.Signals(signum).name
        told = f"{name}: {self.told} (once more stops at once)\n"
        os.write(2, told.encode())
