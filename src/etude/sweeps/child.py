"""The process of one job: it dies with its sweep, heeds signals, and tells how it goes."""

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
from etude.records.opening import JOB_LOG, appended, folder_in
from etude.secrets import MaskingFormatter
from etude.stopping import HANDLED, watch_signals
from etude.sweeps.job import Job
from etude.sweeps.slots import Slot
from etude.training.watch import Watcher, watching

_PR_SET_PDEATHSIG = 1
_SECONDS_BETWEEN = 0.5
_PATIENCE = 0.8
"""Seconds to end by itself; less than the sweep's, which then kills."""


class Stopped(BaseException):
    """A signal before or after training. No Exception: libraries on the way would swallow it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def child(
    connection: Connection, parent: int, call: Callable[[], Job], slot: Slot, log_file: Path
) -> None:
    """Carries out a job and sends what there is to say.

    Messages are pairs: `("line", (level, text))`, `("began", path)`,
    `("progress", (step, total, metrics))`, `("validated", (step, metrics))`, which waits for an
    answer, and at the end `("ended", job)` or `("stopped", signum)`.

    Args:
        connection: to the sweep.
        parent: the sweep's process; without it the job dies.
        call: the job.
        slot: what the process may use.
        log_file: everything that is printed and logged goes there, C libraries' last words too.
    """
    for number in HANDLED:
        signal.signal(number, _stop)
    watch_signals(patience=_PATIENCE)
    teller = _Teller(connection)
    try:
        os.setpgid(0, 0)  # Ctrl-C reaches the sweep alone, which passes it on once
        die_with(parent)
        os.environ.update(slot.environment)
        _speak_into(log_file)
        _log_to(teller)
        if slot.threads is not None:
            import torch

            torch.set_num_threads(slot.threads)
        with watching(teller):
            job = call()
        teller.send("ended", job)
    except (Interrupted, Stopped) as stop:
        teller.send("stopped", stop.signum)
    except KeyboardInterrupt:
        teller.send("stopped", int(signal.SIGINT))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(signum)


def die_with(parent: int) -> None:
    """From now on this process is killed when `parent` dies: nobody would wait for it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it died before that
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def _speak_into(file: Path) -> None:
    """Both outputs, also of what is no Python."""
    folder_in(file.parents[1], file.parent.name)
    with appended(file, JOB_LOG) as opened:
        os.dup2(opened.fileno(), 1)
        os.dup2(opened.fileno(), 2)
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)  # noqa: SIM115
    guard()


def _log_to(teller: _Teller) -> None:
    """What is logged goes to the sweep, which shows it, and with tracebacks to the file."""
    file = logging.StreamHandler(sys.stderr)
    file.setFormatter(MaskingFormatter("%(asctime)s %(levelname)s %(message)s"))
    told = _LinesTo(teller)
    told.setFormatter(MaskingFormatter("%(message)s"))
    told.setLevel(logging.INFO)
    logger = logging.getLogger("etude")
    logger.handlers[:] = [file, told]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False


class _Teller(Watcher):
    """Tells the sweep what happens."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._told = 0.0

    def send(self, kind: str, content: Any) -> None:
        with self._lock:
            self._connection.send((kind, content))

    def began(self, path: Path) -> None:
        self.send("began", str(path))

    def progress(self, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if now - self._told >= _SECONDS_BETWEEN or step >= total:
            self._told = now
            self.send("progress", (step, total, dict(metrics)))

    def validated(self, step: int, metrics: Mapping[str, float]) -> bool:
        with self._lock:
            self._connection.send(("validated", (step, dict(metrics))))
            return bool(self._connection.recv())


class _LinesTo(logging.Handler):
    def __init__(self, teller: _Teller) -> None:
        super().__init__()
        self._teller = teller

    def emit(self, record: logging.LogRecord) -> None:
        self._teller.send("line", (record.levelno, self.format(record)))
