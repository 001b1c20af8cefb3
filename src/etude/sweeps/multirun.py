"""A sweep: Hydra expands and launches, each job is a run that can be repeated without harm."""

from __future__ import annotations

import logging
import math
import shutil
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from etude.config.compose import addable, compose, searching
from etude.config.request import axes
from etude.errors import EtudeError, Interrupted, Problem, RequestError, RunFailed, RunHeld
from etude.records.files import write_json
from etude.records.record import label_of
from etude.records.signature import DIGITS, sha256_of

log = logging.getLogger("etude")


@dataclass
class Job:
    """How one job of a sweep ended.

    Attributes:
        label: its differences.
        status: finished, reused, paused, failed, refused (a wrong config), or held.
        path: its record, where there is one.
        message: what went wrong.
    """

    label: str
    status: str
    path: str | None = None
    message: str | None = None


class _StopSweep(BaseException):
    """Carries a signal through Hydra's launcher, which catches every Exception."""

    def __init__(self, cause: Interrupted) -> None:
        self.cause = cause


def multirun(
    overrides: Sequence[str], train: Callable[[DictConfig], Any], config_dir: str | None = None
) -> list[Job]:
    """Runs every combination of the swept values and reports each.

    Args:
        overrides: in Hydra's grammar; `key=a,b` sweeps.
        train: trains one config and returns its outcome.
        config_dir: a folder of the user's own configs.

    Raises:
        RequestError: an override is wrong whatever the swept values are.
        Interrupted: a signal ended the sweep.
    """
    swept, fixed = axes(overrides)
    first = [*fixed, *(f"{key}={values[0]}" for key, values in swept.items())]
    root = Path(compose(first, config_dir=config_dir).run.root)
    identity = {"fixed": sorted(fixed), "axes": sorted(swept)}
    folder = root / "_sweeps" / sha256_of(identity)[:DIGITS]
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    total = math.prod(len(values) for values in swept.values())
    log.info("sweep of %d: %s", total, folder)
    hydra_overrides = [
        *map(addable, overrides),
        "hydra.sweep.dir='" + str(folder).replace("'", "\\'") + "'",
    ]
    try:
        with searching(config_dir) as hydra:
            batches = hydra.multirun(
                "train",
                task_function=partial(_job, train=train, total=total),
                overrides=hydra_overrides,
                with_log_configuration=False,
            )
    except _StopSweep as stop:
        raise stop.cause from None
    except (HydraException, OmegaConfBaseException) as error:  # before the first job
        _remove(missing)
        problems = _wrong_values(swept, fixed, config_dir)
        fallback = Problem("config", "configs that compose", hint=str(error).splitlines()[0])
        raise RequestError(problems or [fallback]) from error
    jobs: list[Job] = [result.return_value for batch in batches for result in batch]
    write_json(
        folder / "jobs.json", {"axes": swept, "fixed": fixed, "jobs": list(map(asdict, jobs))}
    )
    return jobs


def _remove(made: list[Path]) -> None:
    """Takes back the folders that Hydra made for a sweep without jobs, innermost first."""
    for folder in made[:1]:
        shutil.rmtree(folder, ignore_errors=True)
    for folder in made[1:]:
        with suppress(OSError):  # another sweep's by now
            folder.rmdir()


def _wrong_values(
    swept: dict[str, list[str]], fixed: list[str], config_dir: str | None
) -> list[Problem]:
    """What is wrong with swept values, each tried beside the first values of the other axes."""
    problems: list[Problem] = []
    first = {key: values[0] for key, values in swept.items()}
    for key, values in swept.items():
        for value in values[1:]:
            job = first | {key: value}
            try:
                compose([*fixed, *(f"{k}={v}" for k, v in job.items())], config_dir=config_dir)
            except RequestError as error:
                problems += error.problems
    return problems


def _job(config: DictConfig, *, train: Callable[[DictConfig], Any], total: int) -> Job:
    hydra = HydraConfig.get()
    typed = [item.lstrip("+") for item in hydra.overrides.task]
    config.run.overrides = typed
    label = label_of(typed)
    log.info("[%d/%d] %s", hydra.job.num + 1, total, label)
    try:
        outcome = train(config)
        status = "reused" if outcome.reused else outcome.status
        return Job(label, status, str(outcome.record.path))
    except Interrupted as error:
        raise _StopSweep(error) from error
    except RequestError as error:
        return _failed(Job(label, "refused", message=str(error)))
    except RunHeld as error:
        return _failed(Job(label, "held", message=str(error)))
    except (RunFailed, EtudeError) as error:
        return _failed(Job(label, "failed", message=str(error)))
    except Exception as error:
        log.debug("%s", traceback.format_exc())
        return _failed(Job(label, "failed", message=f"{type(error).__name__}: {error}"))


def _failed(job: Job) -> Job:
    log.error("%s: %s", job.status, job.message)
    return job
