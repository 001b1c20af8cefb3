"""Signal handling during training.

The first signal requests a stop at a step boundary, the second stops immediately. Before the first
step there is no state to save, and the first signal stops immediately.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from etude.errors import Interrupted
from etude.interrupts import defer
from etude.stopping import STOP_SIGNALS, begin_saving, end_saving, is_watching, write_stderr


class StopSignals:
    """Signal handlers during training; inactive outside the main thread.

    Args:
        notice: Description of the effect of the first signal, which is printed when it arrives.

    Attributes:
        begun: Whether a step has been trained that an immediate stop would lose.
        requested: Number of the signal that requested a stop, or None.
        stopped: Number of the signal that stopped training immediately, or None. A library may
            replace the exception that the signal raises.
    """

    def __init__(self, notice: str = "saving after this step, then stopping") -> None:
        self.notice = notice
        self.begun = False
        self.requested: int | None = None
        self.stopped: int | None = None
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def install(self) -> None:
        """Installs the handlers; can be called again if a library has replaced them.

        An ignored SIGHUP (`nohup`) stays ignored.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in STOP_SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            before = signal.signal(number, self._handle)
            self._before.setdefault(number, before)
        begin_saving(self)

    def restore(self) -> None:
        """Restores the handlers from before the first `install`."""
        end_saving(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def saves(self) -> bool:
        """Returns whether the first signal leads to a checkpoint before training stops; see
        `etude.stopping.Saving`.
        """
        return self.begun

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker of a data loader, which ends with training
            return
        if signum == signal.SIGINT and defer(signum, frame):
            return
        if self.requested is not None:
            self.stopped = signum
            raise Interrupted(signum, "stopped immediately; the last checkpoint is intact")
        if not self.begun:
            self.stopped = signum
            raise Interrupted(signum, "stopped immediately, before the first step")
        self.requested = signum
        if not is_watching():
            # Not logged: the signal may have interrupted a write to the log, which isn't reentrant
            write_stderr(
                f"{signal.Signals(signum).name}: {self.notice} (send it again to stop at once)\n"
            )
