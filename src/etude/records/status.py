"""Statuses of runs and of sweep jobs, as in `run.json` and `sweep.json`."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Status of a run, or of a sweep job.

    `paused` is a run that ended at `run.stop_at_step` or that a search pruned, `interrupted` one
    whose process was stopped or killed, and `oom` one that ran out of memory. `failed` is a run
    that ended with another error, and `diverged` one whose loss, gradient norm or metric
    was not finite.

    Only jobs have the statuses `reused` (an earlier run was already finished), `refused` (the
    config is invalid), `held` (another process uses the run) and `waiting` (not started); these
    statuses do not occur in `run.json`.
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
        """Whether the run or job did what was requested: `finished`, `reused` or `paused`."""
        return self in (Status.FINISHED, Status.REUSED, Status.PAUSED)

    @property
    def is_failure(self) -> bool:
        """Whether the run or job failed: `failed`, `oom`, `diverged` or `refused`."""
        return self in (Status.FAILED, Status.OOM, Status.DIVERGED, Status.REFUSED)

    @property
    def is_trained(self) -> bool:
        """Whether a completely trained model exists: `finished` or `reused`."""
        return self in (Status.FINISHED, Status.REUSED)

    @property
    def is_final(self) -> bool:
        """Whether the same command, if repeated, would end with the same status.

        These statuses are `finished`, `reused` and `diverged`. The repeated command only reports
        the run and does not train it again.
        """
        return self in (Status.FINISHED, Status.REUSED, Status.DIVERGED)
