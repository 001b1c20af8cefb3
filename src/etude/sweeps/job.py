"""One job of a sweep: a run that is carried out, and how it ended whatever happened."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from etude.config.environment import mask_of
from etude.errors import EtudeError, Interrupted, RequestError, RunFailed, RunHeld
from etude.records.record import label_of
from etude.records.signature import DIGITS, sha256_of
from etude.secrets import without_secrets

log = logging.getLogger("etude")

GOOD = ("finished", "reused", "paused")
BAD = ("failed", "oom", "diverged", "refused")
CARRIED_OUT = ("run.", "logger", "hydra", "sweep=")
"""Overrides that say how and not what begin like this: a sweep and its jobs are named without."""


@dataclass
class Job:
    """One job and its end.

    Attributes:
        label: its differences from the experiment file.
        status: `finished`, `reused` (it was finished before), `paused`, `failed`, `oom`,
            `diverged`, `refused` (a wrong config), `held` by another process, `interrupted`, or
            `waiting` (it never began).
        path: its record, where there is one.
        message: what went wrong.
        overrides: what makes it.
        seconds: it took this time, of the clock that never jumps.
        traceback: of what nobody expected.
    """

    label: str
    status: str
    path: str | None = None
    message: str | None = None
    overrides: list[str] = field(default_factory=list)
    seconds: float = 0.0
    traceback: str | None = None

    @property
    def key(self) -> str:
        """The same for the same overrides, in whatever order: 12 digits."""
        return key_of(self.overrides)


def place_of(path: str) -> str:
    """A record's path below the root of runs, wherever that is: name and signature."""
    return "/".join(Path(path).parts[-2:])


def key_of(overrides: Iterable[str]) -> str:
    """Names a job by what its overrides ask for, in whatever order; passwords are no part of it."""
    told = {str(without_secrets(item.lstrip("+"))) for item in overrides}
    return sha256_of(sorted(item for item in told if not item.startswith(CARRIED_OUT)))[:DIGITS]


def name_of(overrides: Sequence[str]) -> str:
    """The job's label, or all that was typed where a label leaves out what varies (`name`)."""
    plain = [item.lstrip("+") for item in overrides if not item.startswith(CARRIED_OUT)]
    return label_of(overrides) or " ".join(without_secrets(plain))


def exit_code_of(jobs: Sequence[Job], *, done: int, failed: int, wrong: int, held: int) -> int:
    """What a sweep's command ends with, of the codes given.

    `wrong` if every job was refused, as then the request was; `held` if all that is missing is in
    the hands of other processes.
    """
    if jobs and all(job.status == "refused" for job in jobs):
        return wrong
    if any(job.status in (*BAD, "waiting", "interrupted") for job in jobs):
        return failed
    return held if any(job.status == "held" for job in jobs) else done


def carry_out(config: DictConfig, overrides: Sequence[str], train: Callable[..., Any]) -> Job:
    """Trains one config and says how that ended.

    Raises:
        Interrupted: a signal asked for a stop; whatever else happens is the job's status.
    """
    mask = mask_of(config)
    job = Job(name_of(overrides), "failed", overrides=without_secrets(list(overrides)))
    try:
        outcome = train(config)
        job.status = "reused" if outcome.reused else outcome.status
        job.path = str(outcome.record.path)
    except Interrupted:
        raise
    except RequestError as error:
        job.status, job.message = "refused", str(error)
    except RunHeld as error:
        job.status, job.message = "held", str(error)
        job.path = None if error.folder is None else str(error.folder)
    except RunFailed as error:
        job.status, job.message = error.status, str(error)
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
