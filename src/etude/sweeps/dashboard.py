"""Progress of a sweep: a live table on a terminal or in a notebook, otherwise log lines."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from etude.counts import counted
from etude.progress import open_live_display
from etude.records.status import Status
from etude.sweeps.job import Job
from etude.training.progress import format_losses

if TYPE_CHECKING:
    from rich.console import RenderableType

log = logging.getLogger("etude")

_MAX_FAILURES = 8
"""Number of failures that are shown below the table; the final summary lists all failures."""


@dataclass
class _JobRow:
    label: str
    began: float
    step: int = 0
    total: int = 0
    first: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    def left(self, now: float) -> float | None:
        """Returns the estimated number of seconds until the job ends.

        Returns None before the job has done its first steps, because the speed is then unknown.

        Args:
            now: current time of `time.monotonic`.
        """
        done = self.step - (self.first or 0)
        if not self.total or done < 1:
            return None
        return (self.total - self.step) * (now - self.began) / done


class Dashboard:
    """Display of a sweep's running, finished, failed and waiting jobs, and the time left.

    Args:
        total: number of jobs of the sweep; 0 if unknown.
        at_once: maximum number of jobs that run in parallel.
        done: number of jobs of the sweep that were already done when this display was created.
    """

    def __init__(self, total: int, at_once: int, *, done: int = 0) -> None:
        self._total, self.at_once, self._before = total, at_once, done
        self._running: dict[int, _JobRow] = {}
        self._states: dict[int, Status] = {}  # of the jobs that ended
        self._trained: list[float] = []
        self._failures: list[str] = []
        self._live = open_live_display()

    def started(self, number: int, label: str) -> None:
        """Shows that a job starts or resumes.

        Args:
            number: number of the job in the sweep, from 1.
            label: short text of the job's overrides.
        """
        self._running[number] = _JobRow(label, time.monotonic())
        self._states.pop(number, None)  # of a job that was paused and resumes
        if self._live is None:
            log.info("%s %s", self._name(number), label)
        self.refresh()

    def log_line(self, number: int, level: int, text: str) -> None:
        """Shows a log message of a job; with a table, only warnings and errors are shown.

        Args:
            number: number of the job.
            level: level of the message, as in `logging`.
            text: the message.
        """
        if self._live is None:
            prefix = f"{self._name(number)} " if self.at_once > 1 else ""
            for part in text.splitlines() or [""]:
                log.log(level, "%s%s", prefix, part)
        elif level >= logging.WARNING:
            self._live.print(f"{self._name(number)} {text}")

    def waiting(self, number: int) -> None:
        """Marks a job as waiting, because another job is training the same run."""
        self._running.pop(number, None)
        self.refresh()

    def progress(self, number: int, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """Updates the progress of a running job, which the table shows.

        Args:
            number: number of the job in the sweep, from 1.
            step, total: number of steps that are done, and of all steps.
            metrics: new values of metrics.
        """
        row = self._running[number]
        if row.first is None:
            row.first, row.began = step, time.monotonic()
        row.step, row.total = step, total
        row.metrics |= metrics

    def ended(self, number: int, job: Job, *, same_as: int | None = None) -> None:
        """Shows the end of a job.

        Args:
            number: number of the job.
            job: the job with its result.
            same_as: number of the earlier job that requests the same run; None without such a job.
        """
        self._running.pop(number, None)
        self._states[number] = job.status
        if job.status is Status.FINISHED and same_as is None:
            self._trained.append(job.seconds)
        text = f"{self._name(number)} {job.status}  {job.label}  ({job.seconds:.0f} s)"
        if same_as is not None:
            text = f"{self._name(number)} same as job {same_as}  {job.label}"
        elif not job.status.is_successful and job.status is not Status.INTERRUPTED:
            self._failures.append(f"{self._name(number)} {job.label}: {job.message}")
            text += f": {job.message}"
            (log.error if self._live is None else self._live.print)(text)
            text = ""
        if text and self._live is None:
            log.info("%s  %s", text, self.summary())
        self.refresh()

    def refresh(self) -> None:
        """Redraws the table, if there is one."""
        if self._live is not None:
            self._live.update(self._table())

    def close(self) -> None:
        """Removes the table."""
        if self._live is not None:
            self._live.close()
            self._live = None

    def summary(self) -> str:
        """Returns a line with the state of the sweep.

        Such a line is `2 of 6 jobs done, 1 running, 1 failed, 2 waiting, 3:10 left`.
        """
        ended = Counter(self._states.values())
        done = self._before + sum(count for status, count in ended.items() if status.is_successful)
        jobs = counted(self._total or done, "job")
        parts = [f"{done} of {jobs} done" if self._total else f"{jobs} done"]
        if self._running:
            parts.append(f"{len(self._running)} running")
        parts += [f"{n} {status}" for status, n in ended.items() if not status.is_successful]
        waiting = self._total - self._before - len(self._states) - len(self._running)
        if waiting > 0:
            parts.append(f"{waiting} waiting")
        left = self._left(max(0, waiting))
        return ", ".join([*parts, *([f"{_clock(left)} left"] if left is not None else [])])

    def _left(self, waiting: int) -> float | None:
        """Estimates the number of seconds until all jobs have ended.

        The estimate uses the mean duration of finished jobs, or else the steps of the running jobs.
        Returns None before the first steps.

        Args:
            waiting: number of jobs that have not started.
        """
        now = time.monotonic()
        estimates = [(row.left(now), now - row.began) for row in self._running.values()]
        known = [(left, age) for left, age in estimates if left is not None]
        if self._trained:
            job_seconds = sum(self._trained) / len(self._trained)
        elif known:
            job_seconds = max(left + age for left, age in known)
        else:
            return None
        unknown = waiting + len(estimates) - len(known)
        return (sum(left for left, _ in known) + job_seconds * unknown) / self.at_once

    def _name(self, number: int) -> str:
        return f"[{number}/{self._total}]" if self._total else f"[{number}]"

    def _table(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("job", "", "step", "", "left", box=None, pad_edge=False)
        now = time.monotonic()
        for number, row in sorted(self._running.items()):
            left = row.left(now)
            table.add_row(
                self._name(number),
                Text(row.label, overflow="ellipsis", no_wrap=True),
                f"{row.step}/{row.total}" if row.total else "",
                format_losses(row.metrics),
                "" if left is None else _clock(left),
            )
        hidden_count = len(self._failures) - _MAX_FAILURES
        failures = [Text(text, style="red") for text in self._failures[-_MAX_FAILURES:]]
        earlier = f"and {hidden_count} earlier failures"
        hidden = [Text(earlier, style="red")] if hidden_count > 0 else []
        return Group(Text(self.summary(), style="bold"), table, *hidden, *failures)


def _clock(seconds: float) -> str:
    """Returns a duration as `3:10` or `1:03:10`."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
