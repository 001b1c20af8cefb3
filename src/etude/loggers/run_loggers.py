"""Calls of all loggers of a run, isolated from training.

Each logger runs in its own thread and receives its calls through a queue, so that the run doesn't
wait for a slow logger and doesn't fail if a logger fails.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from etude.loggers.base import Logger, Row, RunInfo
from etude.records.opening import SAMPLE, list_names, read_bytes

log = logging.getLogger("etude")

_BACKLOG = 10_000  # number of queued calls; a logger with more of them will not catch up


class RunLoggers:
    """All loggers of a run, each with its own thread.

    Args:
        loggers: Loggers by name; None means no loggers.
    """

    def __init__(self, loggers: Mapping[str, Logger] | None = None) -> None:
        self._threads = [_LoggerThread(name, logger) for name, logger in (loggers or {}).items()]
        self._run: RunInfo | None = None
        self._started = False

    def set_run(self, run: RunInfo) -> None:
        """Sets the run that `start` passes to the loggers."""
        self._run = run

    def start(self, rows: Callable[[], Sequence[Row]]) -> None:
        """Starts the loggers, without waiting for them.

        Args:
            rows: Function that returns the rows of `metrics.jsonl` so far. It is called only if
                there are loggers and `set_run` was called; otherwise, nothing is started.
        """
        if self._threads and self._run is not None:
            self._started = True
            so_far = rows()
            for thread in self._threads:
                thread.start(self._run, so_far)

    def metrics(self, row: Row) -> None:
        """Passes a row of `metrics.jsonl` to the loggers."""
        if self._started:
            recorded = _as_recorded(row)
            for thread in self._threads:
                thread.call("metrics", recorded)

    def results(self, record: Path, step: int) -> None:
        """Passes all samples and figures in a run folder to the loggers.

        Called once, after training.

        Args:
            record: The run folder.
            step: The last optimizer step.
        """
        if not self._started:
            return
        samples, figures = record / "samples", record / "figures"
        for path in (samples / name for name in list_names(samples) if name.endswith(".txt")):
            text = read_bytes(path, SAMPLE).decode()
            for thread in self._threads:
                thread.call("text", "samples", text, step)
        for path in (figures / name for name in list_names(figures) if name.endswith(".png")):
            for thread in self._threads:
                thread.call("figure", f"figures/{path.stem}", path, step)

    def finish(self, status: str) -> None:
        """Finishes the loggers, and waits for each of them at most `patience` seconds.

        Args:
            status: Status of the run; see `Logger.finish`.
        """
        if not self._started:
            return
        self._started = False
        began = time.monotonic()
        for thread in self._threads:
            thread.call("finish", status)
        try:
            for thread in self._threads:
                thread.wait(began + thread.logger.patience)
        except BaseException:  # a second Ctrl-C
            for thread in self._threads:
                thread.abandon()
            raise


class _LoggerThread:
    """A logger, the thread in which it runs, and the queue of the calls to make."""

    def __init__(self, name: str, logger: Logger) -> None:
        self.name, self.logger = name, logger
        self._calls: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(_BACKLOG)
        self._thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)
        self._dropped = False

    def start(self, run: RunInfo, rows: Sequence[Row]) -> None:
        self._thread.start()
        self.call("start", run, rows)

    def call(self, method: str, *arguments: Any) -> None:
        if self._dropped:
            return
        try:
            self._calls.put_nowait((method, arguments))
        except queue.Full:
            self._drop(f"the logger is too slow: {_BACKLOG:,} calls are waiting")

    def wait(self, until: float) -> None:
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive() and not self._dropped:
            self._drop(f"the logger did not finish within {self.logger.patience:g} s")

    def abandon(self) -> None:
        self._dropped = True
        with suppress(Exception):
            self.logger.abandon()

    def _work(self) -> None:
        while not self._dropped:
            method, arguments = self._calls.get()
            try:
                getattr(self.logger, method)(*arguments)
            except BaseException as error:  # some libraries raise SystemExit
                if not self._dropped:  # otherwise it was abandoned during a call
                    log.debug("%s", traceback.format_exc())
                    lines = str(error).strip().splitlines()
                    self._drop(f"{type(error).__name__}: {lines[0]}" if lines else repr(error))
            if method == "finish":
                return

    def _drop(self, reason: str) -> None:
        log.warning("logger %s failed; the run continues without it: %s", self.name, reason)
        self.abandon()


def _as_recorded(row: Row) -> Row:
    """Returns a row of metrics as it is in `metrics.jsonl`: NaN and infinity are None."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
