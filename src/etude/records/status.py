"""Statuses of runs and of sweep jobs, as in `run.json` and `sweep.json`."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Status of a run, or of a sweep job.

    The last four occur only for jobs, not in `run.json`.
    """

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    PAUSED = "paused"  # at `run.stop_at_step`, or pruned by a search
    DIVERGED = "diverged"
    OOM = "oom"  # out of memory
    REUSED = "reused"  # an earlier run was already finished
    REFUSED = "refused"  # the config was invalid
    HELD = "held"  # held by another process
    WAITING = "waiting"  # not started

    @property
    def is_recorded(self) -> bool:
        """Whether the status can occur in `run.json`."""
        return self not in (Status.REUSED, Status.REFUSED, Status.HELD, Status.WAITING)

    @property
    def is_successful(self) -> bool:
        """Whether the requested work is done."""
        return self in (Status.FINISHED, Status.REUSED, Status.PAUSED)

    @property
    def is_failure(self) -> bool:
        """Whether the run failed, for any reason."""
        return self in (Status.FAILED, Status.OOM, Status.DIVERGED, Status.REFUSED)

    @property
    def is_trained(self) -> bool:
        """Whether a completely trained model exists."""
        return self in (Status.FINISHED, Status.REUSED)

    @property
    def is_final(self) -> bool:
        """Whether a repeated command would end with the same status.

        The command then only reports the run, and does not train it again.
        """
        return self in (Status.FINISHED, Status.REUSED, Status.DIVERGED)
