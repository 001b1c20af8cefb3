"""Execution of one job of a sweep: a run, and the record of how it ended."""

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
        label: overrides that distinguish the job from its experiment file.
        status: how the job ended; `waiting` if the job never began.
        path: path of the run folder, if there is one.
        message: error message.
        overrides: overrides of the job.
        seconds: duration of the job, measured by a monotonic clock.
        traceback: traceback of an unexpected exception.
        same_as: key of an earlier job of the sweep that requests the same run. The run was
            executed once: status, path and message are those of the earlier job.
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
        """Identifier of the job, 12 hex digits; independent of the order of the overrides."""
        return job_key(self.overrides)


def relative_path(path: str) -> str:
    """Returns a run folder's path relative to the root of all runs: `<name>/<signature>`."""
    return "/".join(Path(path).parts[-2:])


def job_key(overrides: Iterable[str]) -> str:
    """Returns a job's key: a hash of its sorted overrides, without secrets."""
    items = {str(mask_record(item.lstrip("+"))) for item in overrides}
    return sha256_of(sorted(item for item in items if not item.startswith(EXECUTION_PREFIXES)))[
        :DIGITS
    ]


def job_name(overrides: Sequence[str]) -> str:
    """Returns the label of a job with these overrides.

    If the label is empty, for example because only `name` varies, returns all overrides.
    """
    unmarked = [item.lstrip("+") for item in overrides if not item.startswith(EXECUTION_PREFIXES)]
    return build_label(overrides) or " ".join(mask_record(unmarked))


def sweep_exit_code(jobs: Sequence[Job], *, done: int, failed: int, wrong: int, held: int) -> int:
    """Returns the exit code of a sweep's command: `done`, `failed`, `wrong` or `held`.

    Args:
        jobs: jobs of the sweep.
        done: exit code if all jobs are done.
        failed: exit code if a job failed or was interrupted, or never began.
        wrong: exit code if all jobs were refused, since the error is then in the request.
        held: exit code if all jobs are done except those whose runs other processes are training.
    """
    if jobs and all(job.status is Status.REFUSED for job in jobs):
        return wrong
    if any(job.status.is_failure or job.status in _UNFINISHED for job in jobs):
        return failed
    return held if any(job.status is Status.HELD for job in jobs) else done


def count_by_status(jobs: Sequence[Job]) -> str:
    """Returns a text such as `4 jobs: 2 finished, 2 the same as another job`."""
    counts = Counter(str(job.status) for job in jobs if job.same_as is None)
    if duplicates := sum(job.same_as is not None for job in jobs):
        counts["the same as another job"] = duplicates
    by_status = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{len(jobs)} jobs: {by_status}"


def run_job(
    overrides: Sequence[str],
    train: Train,
    *,
    config: DictConfig | None = None,
    checked: CheckedConfig | None = None,
    label: str | None = None,
    config_dir: Path | None = None,
) -> Job:
    """Runs one job in this process. Errors are stored in the returned job.

    Args:
        overrides: overrides of the job.
        train: function that trains a run from the job's config.
        config: config composed from the overrides; if None, this function composes the config.
        checked: checked form of the config, if available.
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
