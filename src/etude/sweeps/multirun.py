"""Execution of a sweep: Hydra expands the overrides and launches the jobs, one for each run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from etude.config.checks import CheckedConfig
from etude.config.compose import (
    compose_in_search,
    job_overrides,
    search_configs,
    set_overrides_and_choices,
)
from etude.config.environment import make_mask
from etude.console import show_messages
from etude.counts import counted
from etude.errors import Interrupted, RequestError, RunHeld
from etude.records.files import write_text
from etude.records.opening import MULTIRUN, open_file, path_exists, read_bytes
from etude.records.record import build_label
from etude.records.storage import check_root
from etude.secrets import Mask, mask_keys
from etude.sweeps.expand import Sweep, expand, sweep_error, value_problems
from etude.sweeps.job import Job, Train, run_job
from etude.sweeps.sweep_record import SweepRecord, sweep_folder
from etude.training.start_reports import suppress_other_runs

log = logging.getLogger("etude")


_EXPANDED = ("hydra/sweeper=grid", "hydra.sweeper.params=null")
"""Additional overrides for Hydra, used because `expand` has already checked each value and read
`hydra.sweeper.params` of the config files."""


class _SweepInterrupted(BaseException):
    """Raised instead of `Interrupted` where a launcher would catch any `Exception`."""

    def __init__(self, cause: Interrupted) -> None:
        self.cause = cause


@dataclass
class JobFunction:
    """Task function that Hydra's launchers call with each job's config.

    Attributes:
        train: function that trains a run. It is called with the job's config and its checked config
            (None if it is not checked yet), and returns the run's `Outcome`.
        folder: the sweep's folder.
        total: number of jobs of the sweep; 0 if the sweeper chooses the jobs one by one.
    """

    train: Train
    folder: Path
    total: int
    _masked: list[dict[str, str]] = field(default_factory=list, init=False)

    def __call__(self, config: DictConfig) -> Job:
        """Runs the job with this config, possibly on another machine, and returns its result."""
        show_messages()
        number = int(HydraConfig.get().job.num) + 1
        log.info("[%d%s] %s", number, f"/{self.total}" if self.total else "", build_label(_typed()))
        try:
            job = self.run_job(_complete_config(config), config, first=number == 1)
        except Interrupted as error:
            raise _SweepInterrupted(error) from error
        if not job.status.is_successful:
            log.error("%s: %s", job.status, job.message)
        SweepRecord(self.folder).note(job)
        return job

    def run_job(
        self,
        typed: Sequence[str],
        config: DictConfig,
        checked: CheckedConfig | None = None,
        *,
        first: bool,
    ) -> Job:
        """Masks a job's secrets in the files that Hydra wrote, then runs the job and returns it.

        Args:
            typed: overrides of the job.
            config: config composed from the overrides.
            checked: the config after it was checked; None if it was not checked yet.
            first: whether this is the first job, which reports how other runs of the same name
                differ from it.
        """
        self.without_secrets(make_mask(config) if checked is None else checked.mask)
        with nullcontext() if first else suppress_other_runs():
            return run_job(typed, self.train, config=config, checked=checked)

    def without_secrets(self, mask: Mask) -> None:
        """Masks secrets in the file `multirun.yaml`, which Hydra wrote.

        Args:
            mask: mask of a job's secrets. A mask with the same secrets is applied only once.
        """
        if mask.spellings not in self._masked:
            self._masked.append(mask.spellings)
            _without_secrets(self.folder / "multirun.yaml", mask)


@dataclass
class SweepResult:
    """Result of a sweep.

    Attributes:
        jobs: the jobs in order.
        folder: the sweep's folder.
    """

    jobs: list[Job]
    folder: Path


def multirun(overrides: Sequence[str], train: Train, config_dir: str | None = None) -> SweepResult:
    """Runs a sweep: a job for every combination of the swept values.

    Args:
        overrides: overrides in Hydra's grammar; `key=a,b` sweeps over the values a and b.
        train: function that trains a run; see `JobFunction`.
        config_dir: folder of custom configs.

    Raises:
        RequestError: If an override or a swept value is invalid. No job was started then.
        Interrupted: If a signal ended the sweep.
    """
    with search_configs(config_dir) as hydra:
        sweep = expand(overrides, hydra)
        options = _first_config(sweep).run
        check_root(Path(options.root) / "_sweeps", unsafe=options.unsafe_storage)
        if sweep.jobs and (problems := value_problems(sweep)):
            raise RequestError(problems)
        folder = sweep_folder(Path(options.root), sweep)
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        size = f" with {counted(len(sweep.jobs), 'job')}" if sweep.jobs else ""
        log.info("sweep%s: %s", size, folder)
        record = SweepRecord(folder)
        record.begin(sweep)
        if path_exists(folder / "multirun.yaml"):  # Hydra, which writes it, would follow a link
            open_file(folder / "multirun.yaml", MULTIRUN).close()
        try:
            batches = hydra.multirun(
                "train",
                task_function=JobFunction(train, folder, len(sweep.jobs or ())),
                overrides=[
                    *sweep.overrides,
                    *(_EXPANDED if sweep.jobs else []),
                    "hydra.sweep.dir='" + str(folder).replace("'", "\\'") + "'",
                ],
                with_log_configuration=False,
            )
        except _SweepInterrupted as stop:
            raise stop.cause from None
        except (HydraException, OmegaConfBaseException) as error:  # before the first job
            _remove(missing)
            raise sweep_error(sweep, error) from error
        except (RequestError, RunHeld):
            _remove(missing)
            raise
        finally:
            if folder.exists():
                record.finish()
    return SweepResult([result.return_value for batch in batches for result in batch], folder)


def _complete_config(config: DictConfig) -> list[str]:
    """Sets `run.overrides` and `run.choices` of a job's config; returns the job's overrides.

    The config, which Hydra composed, is changed in place.
    """
    hydra: Any = HydraConfig.get()
    typed = _typed()
    set_overrides_and_choices(config, hydra.runtime.choices, typed)
    return typed


def _typed() -> list[str]:
    """Returns the overrides of the job that Hydra is running now."""
    node: Any = HydraConfig.get().overrides.task
    overrides: list[str] = OmegaConf.to_container(node, resolve=False)  # type: ignore[assignment]
    return job_overrides(overrides)


def _remove(created: list[Path]) -> None:
    """Removes the folders that were created for a sweep whose jobs did not start.

    Args:
        created: the folders, the innermost first. The innermost is removed with its content, the
            others only if they are empty.
    """
    for folder in created[:1]:
        shutil.rmtree(folder, ignore_errors=True)
    for folder in created[1:]:
        with suppress(OSError):  # not empty: another sweep uses it
            folder.rmdir()


def _first_config(sweep: Sweep) -> DictConfig:
    """Composes the config of the first job, which has the first value of each swept key."""
    values = [f"{key}={values[0]}" for key, values in sweep.axes.items()]
    return compose_in_search([*sweep.fixed, *values])


def _without_secrets(path: Path, mask: Mask) -> None:
    """Masks secrets, such as passwords in URLs, in the config file `path` that Hydra wrote."""
    if path_exists(path):
        text = read_bytes(path, MULTIRUN).decode()
        masked = mask_keys(mask.text(text))
        if masked != text:
            write_text(path, masked, MULTIRUN)
