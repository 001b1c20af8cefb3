"""What a person sees of a sweep: a table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from etude.console import rich_console, start_live
from etude.records.status import Status
from etude.sweeps.job import Job
from etude.training.progress import losses_of

if TYPE_CHECKING:
    from rich.console import RenderableType

log = logging.getLogger("etude")

_LONG = 8
"""Failures shown below the table; all of them are told at the end."""


@dataclass
class _Line:
    label: str
    began: float
    step: int = 0
    total: int = 0
    first: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    def left(self, now: float) -> float | None:
        done = self.step - (self.first or 0)
        if not self.total or done < 1:
            return None
        return (self.total - self.step) * (now - self.began) / done


class Board:
    """Shows which jobs run, are done, failed or wait, and how long it takes.

    Args:
        total: jobs of the sweep, 0 where nobody knows.
        at_once: how many run at once.
        done: before this board was set up.
    """

    def __init__(self, total: int, at_once: int, *, done: int = 0) -> None:
        self._total, self.at_once, self._before = total, at_once, done
        self._running: dict[int, _Line] = {}
        self._states: dict[int, Status] = {}  # of the jobs that ended
        self._trained: list[float] = []
        self._failures: list[str] = []
        self._live: Any = None
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(auto_refresh=False, transient=True, console=rich_console())
            start_live(self._live)

    def started(self, number: int, label: str) -> None:
        """A job begins."""
        self._running[number] = _Line(label, time.monotonic())
        self._states.pop(number, None)  # it was paused, and goes on
        if self._live is None:
            log.info("%s %s", self._name(number), label)
        self.tick()

    def line(self, number: int, level: int, text: str) -> None:
        """A job says something; on a terminal only what should worry."""
        if self._live is None:
            prefix = f"{self._name(number)} " if self.at_once > 1 else ""
            for part in text.splitlines() or [""]:
                log.log(level, "%s%s", prefix, part)
        elif level >= logging.WARNING:
            self._print(f"{self._name(number)} {text}")

    def waits(self, number: int) -> None:
        """A job is the same run as another that is being trained: it waits for that."""
        self._running.pop(number, None)
        self.tick()

    def progress(self, number: int, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """A job's steps and metrics."""
        line = self._running[number]
        if line.first is None:
            line.first, line.began = step, time.monotonic()
        line.step, line.total = step, total
        line.metrics |= metrics

    def ended(self, number: int, job: Job, *, same_as: int | None = None) -> None:
        """A job has ended.

        Args:
            same_as: the number of the job that asked for the same run before.
        """
        self._running.pop(number, None)
        self._states[number] = job.status
        if job.status is Status.FINISHED and same_as is None:
            self._trained.append(job.seconds)
        told = f"{self._name(number)} {job.status}  {job.label}  ({job.seconds:.0f} s)"
        if same_as is not None:
            told = f"{self._name(number)} same as job {same_as}  {job.label}"
        elif not job.status.good and job.status is not Status.INTERRUPTED:
            self._failures.append(f"{self._name(number)} {job.label}: {job.message}")
            told += f": {job.message}"
            (self._print if self._live is not None else log.error)(told)
            told = ""
        if told and self._live is None:
            log.info("%s  %s", told, self.summary())
        self.tick()

    def tick(self) -> None:
        """Brings the table up to date."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def close(self) -> None:
        """Takes the table away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def summary(self) -> str:
        """`2 of 6 done, 1 running, 1 failed, 2 waiting, 3:10 left`."""
        ended = Counter(self._states.values())
        done = self._before + sum(count for status, count in ended.items() if status.good)
        parts = [f"{done} of {self._total} done" if self._total else f"{done} done"]
        if self._running:
            parts.append(f"{len(self._running)} running")
        parts += [f"{n} {status}" for status, n in ended.items() if not status.good]
        waiting = self._total - self._before - len(self._states) - len(self._running)
        if waiting > 0:
            parts.append(f"{waiting} waiting")
        left = self._left(max(0, waiting))
        return ", ".join([*parts, *([f"{_clock(left)} left"] if left is not None else [])])

    def _left(self, waiting: int) -> float | None:
        """By the mean time of the jobs that were trained to their end, or by the steps so far."""
        now = time.monotonic()
        ages = [(line.left(now), now - line.began) for line in self._running.values()]
        known = [(left, age) for left, age in ages if left is not None]
        if self._trained:
            whole = sum(self._trained) / len(self._trained)
        elif known:
            whole = max(left + age for left, age in known)
        else:
            return None
        unknown = waiting + len(ages) - len(known)
        return (sum(left for left, _ in known) + whole * unknown) / self.at_once

    def _name(self, number: int) -> str:
        return f"[{number}/{self._total}]" if self._total else f"[{number}]"

    def _print(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)

    def _table(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("job", "", "step", "", "left", box=None, pad_edge=False)
        now = time.monotonic()
        for number, line in sorted(self._running.items()):
            left = line.left(now)
            table.add_row(
                self._name(number),
                Text(line.label, overflow="ellipsis", no_wrap=True),
                f"{line.step}/{line.total}" if line.total else "",
                losses_of(line.metrics),
                "" if left is None else _clock(left),
            )
        more = len(self._failures) - _LONG
        failures = [Text(text, style="red") for text in self._failures[-_LONG:]]
        hidden = [Text(f"and {more} failures before", style="red")] if more > 0 else []
        return Group(Text(self.summary(), style="bold"), table, *hidden, *failures)


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
