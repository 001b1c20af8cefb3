"""Signals while a run trains: the first asks for a stop at a step boundary, the second stops it.

Before the first step there is nothing to be saved, and the first signal stops at once.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from etude.errors import Interrupted
from etude.stopping import HANDLED, begin_saving, end_saving, is_watching, say


class StopSignals:
    """Installed while training runs; does nothing outside the main thread.

    Args:
        told: what the first signal leads to, in words.

    Attributes:
        begun: whether there is a step that a stop would lose.
        requested: the signal that asked for a stop, None so far.
        stopped: the signal that stopped at once; what it raises may arrive as another error.
    """

    def __init__(self, told: str = "saving after this step, then stopping") -> None:
        self.told = told
        self.begun = False
        self.requested: int | None = None
        self.stopped: int | None = None
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def install(self) -> None:
        """Takes over what asks to stop, or takes it back from whoever came in between.

        A SIGHUP that is ignored (`nohup`) stays so.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in HANDLED:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            before = signal.signal(number, self._handle)
            self._before.setdefault(number, before)
        begin_saving(self)

    def restore(self) -> None:
        """Gives the signals back to whoever had them before the first `install`."""
        end_saving(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def saves(self) -> bool:
        """Whether the first signal saves; see `etude.stopping.Saving`."""
        return self.begun

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's worker: it ends when training does
            return
        if self.requested is not None:
            self.stopped = signum
            raise Interrupted(signum, "stopped at once; the last checkpoint stands")
        if not self.begun:
            self.stopped = signum
            raise Interrupted(signum, "stopped at once, before a step was taken")
        self.requested = signum
        if not is_watching():
            # Not by the log: its stream may be in the middle of a write, which cannot be re-entered
            say(f"{signal.Signals(signum).name}: {self.told} (once more stops at once)\n")
