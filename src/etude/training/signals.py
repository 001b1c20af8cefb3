"""Ctrl-C and SIGTERM: the first asks for a stop at a step boundary, the second stops at once."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any

from etude.errors import Interrupted

log = logging.getLogger("etude")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Installed while training runs; does nothing outside the main thread.

    Attributes:
        requested: the signal that asked for a stop, None so far.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Takes over SIGINT and SIGTERM."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Gives both signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            raise Interrupted(signum, "stopped at once; the last checkpoint stands")
        self.requested = signum
        log.warning(
            "%s: saving at the next step, then stopping (once more stops at once)",
            signal.Signals(signum).name,
        )
