"""Process of one job of a sweep, which reports to the sweep's process and ends with it."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from etude.console import guard
from etude.errors import Interrupted
from etude.records.opening import JOB_LOG, make_subfolder, open_for_append
from etude.secrets import MaskingFormatter
from etude.stopping import STOP_SIGNALS, watch_signals
from etude.sweeps.job import Job
from etude.sweeps.job_slots import JobSlot
from etude.training.observer import RunObserver, observing

_PR_SET_PDEATHSIG = 1
_UPDATE_SECONDS = 0.5
"""Minimum time between two progress messages."""

_GRACE_SECONDS = 0.8
"""Time to exit after a second signal; shorter than the sweep's, which then kills the job."""


class Stopped(BaseException):
    """Raised in a job's process when a signal arrives before or after training.

    The class derives from `BaseException`, because libraries may catch every `Exception`.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def run_job_process(
    connection: Connection, parent: int, call: Callable[[], Job], slot: JobSlot, log_file: Path
) -> None:
    """Runs a job in its own process, and sends the job's events to the sweep's process.

    Each event is a pair (name, content): `("line", (level, text))` for a log message,
    `("began", path)` with the run folder, `("progress", (step, total, metrics))`,
    `("validated", (step, metrics))`, and at the end `("ended", job)` or, after a signal,
    `("stopped", signum)`. After `validated`, the job waits for an answer: whether to pause the run.

    Args:
        connection: connection to the sweep's process.
        parent: id of the sweep's process; the job is killed when that process ends.
        call: function that runs the job.
        slot: resources that the process may use.
        log_file: file for all output and log messages, including the output of C libraries.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, _stop)
    watch_signals(patience=_GRACE_SECONDS)
    sender = _EventSender(connection)
    try:
        os.setpgid(0, 0)  # Ctrl-C reaches only the sweep, which forwards it once
        die_with_parent(parent)
        os.environ.update(slot.environment)
        _redirect_output(log_file)
        _set_up_logging(sender)
        if slot.threads is not None:
            import torch

            torch.set_num_threads(slot.threads)
        with observing(sender):
            job = call()
        sender.send("ended", job)
    except (Interrupted, Stopped) as stop:
        sender.send("stopped", stop.signum)
    except KeyboardInterrupt:
        sender.send("stopped", int(signal.SIGINT))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(signum)


def die_with_parent(parent: int) -> None:
    """Makes this process end (SIGKILL) as soon as its parent process ends.

    Args:
        parent: id of the parent process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_kill_after, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before the call above
        os.kill(os.getpid(), signal.SIGKILL)


def _kill_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def _redirect_output(file: Path) -> None:
    """Redirects standard output and standard error, also of C libraries, to a file."""
    make_subfolder(file.parents[1], file.parent.name)
    with open_for_append(file, JOB_LOG) as opened:
        os.dup2(opened.fileno(), 1)
        os.dup2(opened.fileno(), 2)
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)  # noqa: SIM115
    guard()


def _set_up_logging(sender: _EventSender) -> None:
    """Sends this process's log messages to the sweep's process, and writes them to the job's log.

    Args:
        sender: object that sends the messages.
    """
    file = logging.StreamHandler(sys.stderr)
    file.setFormatter(MaskingFormatter("%(asctime)s %(levelname)s %(message)s"))
    to_sweep = _LogSender(sender)
    to_sweep.setFormatter(MaskingFormatter("%(message)s"))
    to_sweep.setLevel(logging.INFO)
    logger = logging.getLogger("etude")
    logger.handlers[:] = [file, to_sweep]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False


class _EventSender(RunObserver):
    """Observer of a run that sends its events, such as progress, to the sweep's process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._last_update = 0.0

    def send(self, kind: str, content: Any) -> None:
        with self._lock:
            self._connection.send((kind, content))

    def began(self, path: Path) -> None:
        self.send("began", str(path))

    def progress(self, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if now - self._last_update >= _UPDATE_SECONDS or step >= total:
            self._last_update = now
            self.send("progress", (step, total, dict(metrics)))

    def validated(self, step: int, metrics: Mapping[str, float]) -> bool:
        with self._lock:
            self._connection.send(("validated", (step, dict(metrics))))
            return bool(self._connection.recv())


class _LogSender(logging.Handler):
    """Log handler that sends messages to the sweep's process."""

    def __init__(self, sender: _EventSender) -> None:
        super().__init__()
        self._sender = sender

    def emit(self, record: logging.LogRecord) -> None:
        self._sender.send("line", (record.levelno, self.format(record)))
