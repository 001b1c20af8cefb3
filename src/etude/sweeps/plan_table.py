"""Planned jobs as a table: its rows and totals as text, and the list that a notebook shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from etude.counts import counted
from etude.markup.fragments import display, note, table
from etude.records.text_tables import format_bytes

if TYPE_CHECKING:
    from etude.sweeps.planning import PlannedJob

COLUMNS = (
    "", "label", "signature", "state", "parameters", "tokens", "FLOPs", "memory", "time left"
)  # fmt: skip
_MOST_ROWS = 50
"""Maximum number of jobs that a notebook shows."""


class PlannedJobs(list["PlannedJob"]):
    """List of planned jobs, which a notebook shows as a table with the remaining work."""

    def __repr__(self) -> str:
        return "\n".join([*plan_totals(self), *(f"  {job!r}" for job in self[:_MOST_ROWS])])

    def _repr_html_(self) -> str:
        rows = [plan_row(number, job) for number, job in enumerate(self[:_MOST_ROWS], start=1)]
        hidden = len(self) - len(rows)
        more = [note(f"and {counted(hidden, 'more job')}")] if hidden else []
        body = table(COLUMNS, rows, numeric=(0, 4, 5, 6, 7, 8))
        return display(*map(note, plan_totals(self)), body, *more)


def plan_row(number: int, job: PlannedJob) -> list[str]:
    """Returns the cells of a job's row: one for each of `COLUMNS`.

    Args:
        number: number of the job, from 1.
        job: the planned job.
    """
    state = job.state.description.splitlines()[0]
    if job.same_as is not None:
        state = f"same as job {job.same_as}"
    size = job.size
    cells = ["", "", "", "", ""]
    if size is not None:
        memory = None if size.cost is None else size.cost.step_bytes
        left = size.seconds_left if job.state.works and job.same_as is None else None
        cells = [
            _parameters(job),
            short_count(size.tokens),
            short_count(size.flops),
            short_bytes(memory),
            rough_duration(left),
        ]
    return [str(number), job.label, job.signature, state, *cells]


def plan_totals(jobs: Sequence[PlannedJob]) -> Iterator[str]:
    """Yields lines with the number of jobs in each state, and with the remaining FLOPs and time."""
    distinct = [job for job in jobs if job.same_as is None]
    counts: dict[str, int] = {}
    for job in distinct:
        kind = {"continues": "to continue", "diverged": "already diverged"}.get(
            job.state.kind, job.state.kind
        )
        counts[kind] = counts.get(kind, 0) + 1
    if len(distinct) < len(jobs):
        counts["duplicate"] = len(jobs) - len(distinct)
    listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    yield f"{counted(len(jobs), 'job')}: {listed}"
    left = [job.size for job in distinct if job.size is not None and job.state.works]
    if not left:
        return
    flops = [size.flops_left for size in left if size.flops_left is not None]
    seconds = [size.seconds_left for size in left if size.seconds_left is not None]
    unknown = len(left) - len(seconds)
    more = f", plus the time of {counted(unknown, 'job')}, which is unknown" if unknown else ""
    time = rough_duration(math.fsum(seconds))
    yield (
        f"remaining: {short_count(math.fsum(flops))} FLOPs, about {time}"
        f" if jobs run one at a time{more}"
    )


def _parameters(job: PlannedJob) -> str:
    if job.size is None or job.size.parameters is None:
        return ""
    return ("~" if job.size.about else "") + f"{job.size.parameters:,}"


def short_count(value: float | None) -> str:
    """Formats a count with three digits: `1.92 M`, or `3.14e+23` from 1e15 on."""
    if value is None:
        return ""
    for size, letter in ((1e15, None), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value:.2e}" if letter is None else f"{_three_digits(value / size)} {letter}"
    return f"{value:.3g}"


def short_bytes(count: int | None) -> str:
    """Formats a number of bytes; None becomes an empty text."""
    return "" if count is None else format_bytes(count)


def _three_digits(value: float) -> str:
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def rough_duration(seconds: float | None) -> str:
    """Formats a duration: `45 s`, `2:40 min`, `5.1 h`, `12.0 days` or `340 years`."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    if seconds < 5400:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}:{rest:02d} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    days = seconds / 86400
    return f"{days:,.1f} days" if days < 700 else f"{days / 365.25:,.0f} years"
