"""How runs and jobs of sweeps stand: the words in records, and what follows from each."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """The status of a run, or of a job that asks for one.

    The last four are of jobs alone: no `run.json` has them.
    """

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    PAUSED = "paused"  # at `run.stop_at_step`, or by a search
    DIVERGED = "diverged"
    OOM = "oom"  # there was too little memory
    REUSED = "reused"  # it was finished before
    REFUSED = "refused"  # the request was wrong
    HELD = "held"  # by another process
    WAITING = "waiting"  # it never began

    @property
    def recorded(self) -> bool:
        """Whether `run.json` may have it."""
        return self not in (Status.REUSED, Status.REFUSED, Status.HELD, Status.WAITING)

    @property
    def good(self) -> bool:
        """Whether all that was asked for is done."""
        return self in (Status.FINISHED, Status.REUSED, Status.PAUSED)

    @property
    def bad(self) -> bool:
        """Whether it failed, in whatever way."""
        return self in (Status.FAILED, Status.OOM, Status.DIVERGED, Status.REFUSED)

    @property
    def trained(self) -> bool:
        """Whether there is a model that was trained to its end."""
        return self in (Status.FINISHED, Status.REUSED)

    @property
    def over(self) -> bool:
        """Whether the same command would reach it again: it says so instead of repeating it."""
        return self in (Status.FINISHED, Status.REUSED, Status.DIVERGED)
