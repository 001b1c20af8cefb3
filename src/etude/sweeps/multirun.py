"""A sweep: Hydra expands and launches, each job is a run that can be repeated without harm."""

from __future__ import annotations

import logging
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
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from etude.config.compose import chosen, composed, literal, searching
from etude.config.environment import mask_of
from etude.errors import EtudeError, Interrupted, RequestError, RunFailed, RunHeld
from etude.records.files import write_json, write_text
from etude.records.record import label_of
from etude.records.signature import DIGITS, sha256_of
from etude.secrets import Mask, without_passwords
from etude.sweeps.expand import Sweep, expand, refused

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
    with searching(config_dir) as hydra:
        sweep = expand(overrides, hydra)
        root = Path(_first(sweep).run.root)
        identity = {"fixed": without_passwords(sorted(sweep.fixed)), "axes": sorted(sweep.axes)}
        folder = root / "_sweeps" / sha256_of(identity)[:DIGITS]
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        log.info("sweep%s: %s", f" of {len(sweep.jobs)}" if sweep.jobs else "", folder)
        try:
            batches = hydra.multirun(
                "train",
                task_function=partial(
                    _job, train=train, total=len(sweep.jobs or ()), folder=folder
                ),
                overrides=[
                    *sweep.overrides,
                    *(["hydra.sweeper.params=null"] if sweep.jobs else []),  # they are in there
                    "hydra.sweep.dir='" + str(folder).replace("'", "\\'") + "'",
                ],
                with_log_configuration=False,
            )
        except _StopSweep as stop:
            raise stop.cause from None
        except (HydraException, OmegaConfBaseException) as error:  # before the first job
            _remove(missing)
            raise refused(sweep, error) from error
    jobs: list[Job] = [result.return_value for batch in batches for result in batch]
    write_json(
        folder / "jobs.json",
        {
            "axes": without_passwords(sweep.axes),
            "fixed": without_passwords(sweep.fixed),
            "jobs": list(map(asdict, jobs)),
        },
    )
    return jobs


def _remove(made: list[Path]) -> None:
    """Takes back the folders that Hydra made for a sweep without jobs, innermost first."""
    for folder in made[:1]:
        shutil.rmtree(folder, ignore_errors=True)
    for folder in made[1:]:
        with suppress(OSError):  # another sweep's by now
            folder.rmdir()


def _first(sweep: Sweep) -> DictConfig:
    """The config of one job."""
    values = [f"{key}={values[0]}" for key, values in sweep.axes.items()]
    return composed([*sweep.fixed, *values])


def _without_secrets(path: Path, mask: Mask) -> None:
    """Hydra has written the sweep's config, passwords in URLs and the folder's path included."""
    if path.exists():
        text = path.read_text(encoding="utf-8")
        if mask.text(text) != text:
            write_text(path, mask.text(text))


def _job(
    config: DictConfig, *, train: Callable[[DictConfig], Any], total: int, folder: Path
) -> Job:
    mask = mask_of(config)
    _without_secrets(folder / "multirun.yaml", mask)
    job = _done(config, train, total)
    path, message = (text and mask.text(text) for text in (job.path, job.message))
    return Job(job.label, job.status, path, message)


def _done(config: DictConfig, train: Callable[[DictConfig], Any], total: int) -> Job:
    hydra: Any = HydraConfig.get()
    written: list[str] = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # type: ignore[assignment]
    typed = [item.lstrip("+") for item in written]
    config.run.overrides = [literal(item) for item in typed]
    config.run.choices = chosen(hydra, typed)
    label = label_of(typed)
    log.info("[%d%s] %s", hydra.job.num + 1, f"/{total}" if total else "", label)
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
