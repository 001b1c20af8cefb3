"""All loggers of a run behind one door, which lets nothing back: no error, no waiting.

Each logger lives in a thread of its own and is handed its calls through a queue, so that the run
neither waits for a slow one nor sees what it raises.
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

from etude.loggers.base import Logger, Row, ViewedRun
from etude.records.opening import SAMPLE, names_in, read_bytes

log = logging.getLogger("etude")

_BACKLOG = 10_000  # calls; a logger that is further behind will not catch up


class Views:
    """The loggers of one run.

    Args:
        loggers: by name; none by default.
    """

    def __init__(self, loggers: Mapping[str, Logger] | None = None) -> None:
        self._guarded = [_Guarded(name, logger) for name, logger in (loggers or {}).items()]
        self._run: ViewedRun | None = None
        self._started = False

    def about(self, run: ViewedRun) -> None:
        """Says which run it is; nothing starts yet."""
        self._run = run

    def start(self, rows: Callable[[], Sequence[Row]]) -> None:
        """Starts the loggers, without waiting for them.

        Args:
            rows: gives those of `metrics.jsonl` so far.
        """
        if self._guarded and self._run is not None:
            self._started = True
            so_far = rows()
            for guarded in self._guarded:
                guarded.start(self._run, so_far)

    def metrics(self, row: Row) -> None:
        """A row was appended to `metrics.jsonl`."""
        if self._started:
            written = _as_written(row)
            for guarded in self._guarded:
                guarded.call("metrics", written)

    def results(self, record: Path, step: int) -> None:
        """The record's samples and figures are written."""
        if not self._started:
            return
        samples, figures = record / "samples", record / "figures"
        for path in (samples / name for name in names_in(samples) if name.endswith(".txt")):
            text = read_bytes(path, SAMPLE).decode()
            for guarded in self._guarded:
                guarded.call("text", "samples", text, step)
        for path in (figures / name for name in names_in(figures) if name.endswith(".png")):
            for guarded in self._guarded:
                guarded.call("figure", f"figures/{path.stem}", path, step)

    def finish(self, status: str) -> None:
        """The run came to an end, however it did. Waits for each logger, as long as it may take."""
        if not self._started:
            return
        self._started = False
        began = time.monotonic()
        for guarded in self._guarded:
            guarded.call("finish", status)
        try:
            for guarded in self._guarded:
                guarded.wait(began + guarded.logger.patience)
        except BaseException:  # a second Ctrl-C
            for guarded in self._guarded:
                guarded.abandon()
            raise


class _Guarded:
    """A logger in its thread."""

    def __init__(self, name: str, logger: Logger) -> None:
        self.name, self.logger = name, logger
        self._calls: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(_BACKLOG)
        self._thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)
        self._dropped = False

    def start(self, run: ViewedRun, rows: Sequence[Row]) -> None:
        self._thread.start()
        self.call("start", run, rows)

    def call(self, method: str, *arguments: Any) -> None:
        if self._dropped:
            return
        try:
            self._calls.put_nowait((method, arguments))
        except queue.Full:
            self._drop(f"it is {_BACKLOG} entries behind")

    def wait(self, until: float) -> None:
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive() and not self._dropped:
            self._drop(f"it did not finish within {self.logger.patience:g} s")

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
                if not self._dropped:  # else it was abandoned in the middle of a call
                    log.debug("%s", traceback.format_exc())
                    told = str(error).strip().splitlines()
                    self._drop(f"{type(error).__name__}: {told[0]}" if told else repr(error))
            if method == "finish":
                return

    def _drop(self, reason: str) -> None:
        log.warning("logger %s failed, the run goes on without it: %s", self.name, reason)
        self.abandon()


def _as_written(row: Row) -> Row:
    """The row as `metrics.jsonl` has it: what is no finite number is null there."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
