"""A sweep: Hydra expands and launches, each job is a run that can be repeated without harm."""

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

from etude.config.checks import Checked
from etude.config.compose import composed, fill_in, of_the_job, searching
from etude.config.environment import mask_of
from etude.console import show_messages
from etude.errors import Interrupted, RequestError, RunHeld
from etude.records.files import write_text
from etude.records.opening import MULTIRUN, is_there, opened, read_bytes
from etude.records.record import label_of
from etude.records.storage import check_root
from etude.secrets import Mask, without_keys
from etude.sweeps.expand import Sweep, expand, refused, wrong_values
from etude.sweeps.job import Job, Train, carry_out
from etude.sweeps.study import Study, sweep_folder
from etude.training.starts import without_other_runs

log = logging.getLogger("etude")


_HANDED_OVER = ("hydra/sweeper=grid", "hydra.sweeper.params=null")
"""Each value was tried, and what files state under `params` is among the overrides."""


class _StopSweep(BaseException):
    """Carries a signal through a launcher that catches every Exception."""

    def __init__(self, cause: Interrupted) -> None:
        self.cause = cause


@dataclass
class SweptRun:
    """The function that Hydra's launchers call with each job's config.

    Attributes:
        train: trains one config and returns its outcome.
        folder: of the sweep's record.
        total: jobs of the sweep; 0 where a sweeper decides as it goes.
    """

    train: Train
    folder: Path
    total: int
    _masked: list[dict[str, str]] = field(default_factory=list, init=False)

    def __call__(self, config: DictConfig) -> Job:
        """Wherever a launcher calls it, perhaps on another machine."""
        show_messages()
        number = int(HydraConfig.get().job.num) + 1
        log.info("[%d%s] %s", number, f"/{self.total}" if self.total else "", label_of(_typed()))
        try:
            job = self.carry_out(_told(config), config, first=number == 1)
        except Interrupted as error:
            raise _StopSweep(error) from error
        if not job.status.good:
            log.error("%s: %s", job.status, job.message)
        Study(self.folder).note(job)
        return job

    def carry_out(
        self,
        typed: Sequence[str],
        config: DictConfig,
        checked: Checked | None = None,
        *,
        first: bool,
    ) -> Job:
        """One job; `first` also tells what its run's name was used for before."""
        self.without_secrets(mask_of(config) if checked is None else checked.mask)
        with nullcontext() if first else without_other_runs():
            return carry_out(typed, self.train, config=config, checked=checked)

    def without_secrets(self, mask: Mask) -> None:
        """Masks what Hydra has written into the sweep's record, once for each mask."""
        if mask.spellings not in self._masked:
            self._masked.append(mask.spellings)
            _without_secrets(self.folder / "multirun.yaml", mask)


@dataclass
class Swept:
    """What became of a sweep.

    Attributes:
        jobs: in their order.
        folder: the sweep's record.
    """

    jobs: list[Job]
    folder: Path


def multirun(overrides: Sequence[str], train: Train, config_dir: str | None = None) -> Swept:
    """Runs every combination of the swept values and reports each.

    Args:
        overrides: in Hydra's grammar; `key=a,b` sweeps.
        train: trains one config and returns its outcome.
        config_dir: a folder of the user's own configs.

    Raises:
        RequestError: an override, or a swept value, does not fit; no job has begun.
        Interrupted: a signal ended the sweep.
    """
    with searching(config_dir) as hydra:
        sweep = expand(overrides, hydra)
        if sweep.jobs and (wrong := wrong_values(sweep)):
            raise RequestError(wrong)
        options = _first(sweep).run
        check_root(Path(options.root) / "_sweeps", unsafe=options.unsafe_storage)
        folder = sweep_folder(Path(options.root), sweep)
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        log.info("sweep%s: %s", f" of {len(sweep.jobs)}" if sweep.jobs else "", folder)
        study = Study(folder)
        study.begin(sweep)
        if is_there(folder / "multirun.yaml"):  # Hydra writes it, and follows links
            opened(folder / "multirun.yaml", MULTIRUN).close()
        try:
            batches = hydra.multirun(
                "train",
                task_function=SweptRun(train, folder, len(sweep.jobs or ())),
                overrides=[
                    *sweep.overrides,
                    *(_HANDED_OVER if sweep.jobs else []),
                    "hydra.sweep.dir='" + str(folder).replace("'", "\\'") + "'",
                ],
                with_log_configuration=False,
            )
        except _StopSweep as stop:
            raise stop.cause from None
        except (HydraException, OmegaConfBaseException) as error:  # before the first job
            _remove(missing)
            raise refused(sweep, error) from error
        except (RequestError, RunHeld):
            _remove(missing)
            raise
        finally:
            if folder.exists():
                study.finish()
    return Swept([result.return_value for batch in batches for result in batch], folder)


def _told(config: DictConfig) -> list[str]:
    """The overrides of the job that Hydra has set up; its config is told of them."""
    hydra: Any = HydraConfig.get()
    typed = _typed()
    fill_in(config, hydra.runtime.choices, typed)
    return typed


def _typed() -> list[str]:
    """The overrides of the job that Hydra has set up."""
    node: Any = HydraConfig.get().overrides.task
    written: list[str] = OmegaConf.to_container(node, resolve=False)  # type: ignore[assignment]
    return of_the_job(written)


def _remove(made: list[Path]) -> None:
    """Takes back the folders of a sweep without jobs, innermost first."""
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
    if is_there(path):
        text = read_bytes(path, MULTIRUN).decode()
        without = without_keys(mask.text(text))
        if without != text:
            write_text(path, without, MULTIRUN)
