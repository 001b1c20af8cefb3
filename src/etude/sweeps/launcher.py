"""Hydra's jobs in processes of their own: the launcher of every sweep unless another is chosen."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from etude.config.checks import Checked, check
from etude.config.compose import composed, of_the_job
from etude.console import logged_to
from etude.errors import EtudeError, InvalidArguments, RequestError
from etude.secrets import without_secrets
from etude.sweeps.board import Board
from etude.sweeps.forking import prepare_to_fork
from etude.sweeps.job import Job, key_of, name_of
from etude.sweeps.multirun import SweptRun
from etude.sweeps.pool import Pool, Task, start_method
from etude.sweeps.slots import slots, visible_gpus
from etude.sweeps.study import Study
from etude.training.state import finished_at_once

log = logging.getLogger("etude")

_SECONDS_BETWEEN = 2.0
"""Two writings of the sweep's record, while jobs are found finished."""

Decide = Callable[[Sequence[str], int, Mapping[str, float]], bool]
"""Overrides of a job, a step and its validation's metrics; true pauses the run."""


@dataclass
class Processes:
    """Launches jobs, each in its own process.

    Attributes:
        swept: the task function that `multirun` gave to Hydra.
        context: Hydra's, with the loader of configs.
        config: of the sweep.
        n_jobs: at once; `auto` is one, or as many as the GPUs have places for.
        jobs_per_gpu: how many share a GPU.
    """

    swept: SweptRun
    context: HydraContext
    config: DictConfig
    n_jobs: int | str = "auto"
    jobs_per_gpu: int = 1

    def launch(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Runs one batch of jobs.

        Args:
            job_overrides: a list for each job.
            first: the number of the first of them, from 0.
        """
        returns = self.each(iter(job_overrides), first=first)
        missing = list(job_overrides)[len(returns) :]  # none begun after one that failed
        for overrides in missing:
            job = self._waiting(overrides)
            returns.append(_returned(job, overrides))
        return returns

    def each(
        self,
        job_overrides: Iterator[Sequence[str] | None],
        *,
        first: int = 0,
        ended: Callable[[Job], None] | None = None,
        decide: Decide | None = None,
    ) -> list[JobReturn]:
        """Runs jobs as they are made; the next is asked for when there is a place for it.

        None among them means: not before another has ended.

        Args:
            ended: hears of each end, before the next job is asked for.
            decide: hears of each validation and may pause the run.

        Raises:
            RequestError: more jobs at once than this machine has places for.
            Interrupted: a signal ended the sweep.
        """
        setup_globals()
        study = Study(self.swept.folder)
        notes = _Notes(study)
        places = self._slots()
        board = Board(self.swept.total, len(places), done=first)
        taken: dict[int, Sequence[str]] = {}
        numbers: dict[str, int] = {}
        paused: dict[str, int] = {}  # jobs that may be asked for once more

        def note(job: Job) -> None:
            if job.status == "paused":
                paused[job.key] = numbers[job.key]
            notes.add(job)
            if ended is not None:
                ended(job)

        def tasks() -> Iterator[Task | None]:
            for overrides in job_overrides:
                if overrides is None:
                    yield None
                    continue
                key = key_of(of_the_job(overrides))
                number = paused.pop(key, first + len(taken))
                taken[number], numbers[key] = overrides, number
                checked = _checked(overrides)
                over = None if checked is None else self._over(number, overrides, checked, board)
                if over is not None:
                    call, file = partial(replace, over), study.log_file(over)
                    yield Task(number + 1, over, call, file, over=over)
                    continue
                notes.write()
                if start_method() == "fork":
                    prepare_to_fork(checked)
                yield self._task(number, overrides, study, decide)

        stop = str(self.config.run.on_error) == "stop"
        try:
            jobs = Pool(places, board, note, stop_at_error=stop).run(tasks())
        finally:
            notes.write()
            board.close()
        asked = [taken[number] for number in sorted(taken)]
        return [_returned(job, overrides) for job, overrides in zip(jobs, asked, strict=True)]

    def _slots(self) -> list[Any]:
        trainer = self.config.trainer
        alone = trainer.get("accelerator") == "cpu" or trainer.get("devices", 1) != 1
        gpus = [] if alone else visible_gpus()
        try:
            return slots(self.n_jobs, self.jobs_per_gpu, gpus=gpus)
        except InvalidArguments as error:
            problems = [problem.under("hydra.launcher") for problem in error.problems]
            raise RequestError(problems) from error

    def _waiting(self, overrides: Sequence[str]) -> Job:
        typed = of_the_job(overrides)
        return Job(name_of(typed), "waiting", overrides=without_secrets(typed))

    def _over(
        self, number: int, overrides: Sequence[str], checked: Checked, board: Board
    ) -> Job | None:
        """The end of a job whose run is finished; None where that takes a process to find out."""
        began, said = time.monotonic(), io.StringIO()
        try:
            with logged_to(said):
                outcome = finished_at_once(checked)
        except EtudeError:  # reported by the job, as all that is wrong is
            return None
        if outcome is None:
            return None
        self.swept.without_secrets(checked.mask)
        job = self._waiting(overrides)
        board.started(number + 1, job.label)
        board.line(number + 1, logging.INFO, checked.mask.text(said.getvalue().rstrip()))
        took = round(time.monotonic() - began, 2)
        return replace(job, status="reused", path=str(outcome.record.path), seconds=took)

    def _task(
        self, number: int, overrides: Sequence[str], study: Study, decide: Decide | None
    ) -> Task:
        job = self._waiting(overrides)
        if start_method() == "fork":
            config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            call = partial(_in_a_fork, self.swept, self.context, config)
        else:
            call = partial(self.swept.composed_here, of_the_job(overrides))
        validated = None if decide is None else partial(decide, tuple(overrides))
        return Task(number + 1, job, call, study.log_file(job), validated)


def _checked(overrides: Sequence[str]) -> Checked | None:
    """A job's config; None if it is wrong, which the job reports."""
    try:
        return check(composed(of_the_job(overrides)))
    except EtudeError:
        return None


class _Notes:
    """How jobs ended, on its way to the sweep's record: many that were finished before are written
    together.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._waiting: list[Job] = []
        self._written = time.monotonic()

    def add(self, job: Job) -> None:
        self._waiting.append(job)
        if job.status != "reused" or time.monotonic() > self._written + _SECONDS_BETWEEN:
            self.write()

    def write(self) -> None:
        """Writes what is waiting."""
        if not self._waiting:
            return
        try:
            self._study.note(*self._waiting)
        except OSError as error:  # the runs have records of their own
            log.warning("%s could not be written: %s", self._study.file, error)
        self._waiting, self._written = [], time.monotonic()


def _in_a_fork(swept: SweptRun, context: HydraContext, config: DictConfig) -> Job:
    """Hydra's own way of running a job, in a process that has inherited Hydra's state."""
    done = run_job(
        hydra_context=context,
        task_function=swept.carry_out,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        configure_logging=False,
    )
    if done.status is not JobStatus.COMPLETED:
        raise done._return_value
    job: Job = done.return_value
    return job


def _returned(job: Job, overrides: Sequence[str]) -> JobReturn:
    done = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    done.return_value = job
    return done
