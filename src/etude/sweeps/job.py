"""One job of a sweep: a run that is carried out, and how it ended whatever happened."""

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
from etude.config.environment import mask_of
from etude.errors import EtudeError, Interrupted, RequestError, RunFailed, RunHeld
from etude.records.record import label_of
from etude.records.signature import DIGITS, sha256_of
from etude.records.status import Status
from etude.secrets import Mask, mask_messages, without_secrets

if TYPE_CHECKING:
    from etude.config.checks import Checked
    from etude.training.state import Outcome

log = logging.getLogger("etude")

Train = Callable[[DictConfig, "Checked | None"], "Outcome"]
"""Trains a config, which may have been checked, and says what came of it."""

_BEGIN_AGAIN = (Status.WAITING, Status.INTERRUPTED)
"""Nothing is wrong, and something is left to do."""

CARRIED_OUT = ("run.", "logger", "hydra", "sweep=")
"""Overrides that say how and not what begin like this: a sweep and its jobs are named without."""


@dataclass
class Job:
    """One job and its end.

    Attributes:
        label: its differences from the experiment file.
        status: how it ended; `waiting` if it never began.
        path: its record, where there is one.
        message: what went wrong.
        overrides: what makes it.
        seconds: it took this time, of the clock that never jumps.
        traceback: of what nobody expected.
        same_as: the key of an earlier job of the sweep that asks for the very same run. It was
            carried out once: the status, path and message are of that job.
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
    if jobs and all(job.status is Status.REFUSED for job in jobs):
        return wrong
    if any(job.status.bad or job.status in _BEGIN_AGAIN for job in jobs):
        return failed
    return held if any(job.status is Status.HELD for job in jobs) else done


def counted(jobs: Sequence[Job]) -> str:
    """How many jobs ended in which way: `4 jobs: 2 finished, 2 the same as another`."""
    counts = Counter(str(job.status) for job in jobs if job.same_as is None)
    if same := sum(job.same_as is not None for job in jobs):
        counts["the same as another"] = same
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{len(jobs)} jobs: {told}"


def carry_out(
    overrides: Sequence[str],
    train: Train,
    *,
    config: DictConfig | None = None,
    checked: Checked | None = None,
    label: str | None = None,
    config_dir: Path | None = None,
) -> Job:
    """Carries out one job, in whatever process, and says how that ended.

    Args:
        overrides: what makes it.
        train: trains its config.
        config: composed of the overrides, where that was done.
        checked: the config, where it was checked.
        label: of the job; None takes that of the overrides.
        config_dir: a folder of the user's own configs, where the config is composed here.

    Raises:
        Interrupted: a signal asked for a stop; whatever else happens is the job's status.
    """
    job = Job(label or name_of(overrides), Status.FAILED, overrides=without_secrets([*overrides]))
    mask = Mask()
    try:
        if config is None:
            config = checked.config if checked else compose(overrides, config_dir=config_dir)
        mask = mask_of(config) if checked is None else checked.mask
        mask_messages(mask)  # the log of its process is a file like any other
        outcome = train(config, checked)
        job.status = outcome.of_the_job
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
