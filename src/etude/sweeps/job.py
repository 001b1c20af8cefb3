"""Execution of one job of a sweep, which trains a run, and its result."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from etude.config.compose import compose
from etude.config.environment import make_mask
from etude.counts import counted
from etude.errors import EtudeError, Interrupted, RequestError, RunFailed, RunHeld
from etude.records.record import build_label
from etude.records.signature import DIGITS, sha256_of
from etude.records.status import Status
from etude.secrets import Mask, mask_messages, mask_record

if TYPE_CHECKING:
    from etude.config.checks import CheckedConfig
    from etude.training.state import Outcome

log = logging.getLogger("etude")

Train = Callable[[DictConfig, "CheckedConfig | None"], "Outcome"]
"""Function that trains a run from its config; the second argument is the checked config, or None
if it is not available."""

_UNFINISHED = (Status.WAITING, Status.INTERRUPTED)
"""Statuses of jobs that have no error and have not ended yet."""

EXECUTION_PREFIXES = ("run.", "logger", "hydra", "sweep=")
"""Prefixes of overrides that don't affect results.

The keys that identify jobs and sweeps don't include such overrides.
"""


@dataclass
class Job:
    """One job of a sweep and its result.

    Attributes:
        label: short text of the job's overrides, such as `position=rotary lr=1e-3`.
        status: how the job ended; `waiting` if the job never began.
        path: path of the run folder; None if there is none.
        message: error message; None if the job had no error.
        overrides: overrides of the job.
        seconds: duration of the job, measured by a monotonic clock.
        traceback: traceback of an unexpected exception; None without such an exception.
        same_as: key (see the attribute `key`) of an earlier job of the sweep that requests the same
            run; None without such a job. The run was executed once: status, path and message are
            those of the earlier job.
    """

    label: str
    status: Status
    path: str | None = None
    message: str | None = None
    overrides: list[str] = field(default_factory=list)
    seconds: float = 0.0
    traceback: str | None = None
    same_as: str | None = None

    @property
    def key(self) -> str:
        """Identifier of the job: 12 hex digits that do not depend on the order of the overrides."""
        return job_key(self.overrides)


def relative_path(path: str) -> str:
    """Returns the part `<name>/<signature>` of a run folder's path.

    This is the path relative to the root folder of all runs. The signature is the hash of the run's
    config.
    """
    return "/".join(Path(path).parts[-2:])


def job_key(overrides: Iterable[str]) -> str:
    """Returns the identifier of the job with these overrides: 12 hex digits.

    It is a hash of the sorted overrides, in which secrets are masked.
    """
    items = {str(mask_record(item.lstrip("+"))) for item in overrides}
    return sha256_of(sorted(item for item in items if not item.startswith(EXECUTION_PREFIXES)))[
        :DIGITS
    ]


def job_name(overrides: Sequence[str]) -> str:
    """Returns the label of a job: a short text of its overrides, such as `position=rotary lr=1e-3`.

    If the label is empty, for example because only `name` varies, returns all overrides.
    """
    unmarked = [item.lstrip("+") for item in overrides if not item.startswith(EXECUTION_PREFIXES)]
    return build_label(overrides) or " ".join(mask_record(unmarked))


def sweep_exit_code(jobs: Sequence[Job], *, done: int, failed: int, wrong: int, held: int) -> int:
    """Returns one of the four given exit codes, depending on how the jobs of a sweep ended.

    Args:
        jobs: jobs of the sweep.
        done: exit code if all jobs are finished, reused or paused.
        failed: exit code if a job failed or was interrupted, or never began, or if some, but not
            all, jobs were refused.
        wrong: exit code if all jobs were refused, since the error is then in the request.
        held: exit code if all jobs are done except those whose runs other processes are training.
    """
    if jobs and all(job.status is Status.REFUSED for job in jobs):
        return wrong
    if any(job.status.is_failure or job.status in _UNFINISHED for job in jobs):
        return failed
    return held if any(job.status is Status.HELD for job in jobs) else done


def count_by_status(jobs: Sequence[Job]) -> str:
    """Returns a text with the number of jobs of each status.

    Such a text is `4 jobs: 2 finished, 2 the same as another job`.
    """
    counts = Counter(str(job.status) for job in jobs if job.same_as is None)
    if duplicates := sum(job.same_as is not None for job in jobs):
        counts["the same as another job"] = duplicates
    by_status = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{counted(len(jobs), 'job')}: {by_status}"


def run_job(
    overrides: Sequence[str],
    train: Train,
    *,
    config: DictConfig | None = None,
    checked: CheckedConfig | None = None,
    label: str | None = None,
    config_dir: Path | None = None,
) -> Job:
    """Runs one job in this process, and returns the job with its result.

    Errors don't raise an exception; they are stored in the returned job.

    Args:
        overrides: overrides of the job.
        train: function that trains a run. It is called with `config` and `checked`, and returns the
            run's `Outcome`.
        config: config composed from the overrides; if None, this function composes the config.
        checked: the config after it was checked; None if it was not checked yet.
        label: label of the job; if None, the label is derived from the overrides.
        config_dir: folder of custom configs, used if this function composes the config.

    Raises:
        Interrupted: If a signal was received.
    """
    job = Job(label or job_name(overrides), Status.FAILED, overrides=mask_record([*overrides]))
    mask = Mask()
    try:
        if config is None:
            config = checked.config if checked else compose(overrides, config_dir=config_dir)
        mask = make_mask(config) if checked is None else checked.mask
        mask_messages(mask)  # the log file of the process must not contain secrets
        outcome = train(config, checked)
        job.status = outcome.job_status
        job.path = str(outcome.record.path)
    except Interrupted:
        raise
    except RequestError as error:
        job.status, job.message = Status.REFUSED, str(error)
    except RunHeld as error:
        job.status, job.message = Status.HELD, str(error)
        job.path = None if error.folder is None else str(error.folder)
    except RunFailed as error:
        job.status, job.message = Status(error.status), str(error)
        job.path = None if error.path is None else str(error.path)
    except EtudeError as error:
        job.message = str(error)
    except Exception as error:
        job.message = f"{type(error).__name__}: {error}"
        job.traceback = traceback.format_exc()
        log.debug("%s", job.traceback)
    for name in ("message", "traceback"):
        if text := getattr(job, name):
            setattr(job, name, mask.text(text))
    return job
