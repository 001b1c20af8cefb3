"""Hydra's jobs in processes of their own: the launcher of every sweep unless another is chosen."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from etude.config.checks import Checked, check
from etude.config.compose import composed, of_the_job
from etude.console import logged_to
from etude.errors import EtudeError, InvalidArguments, RequestError
from etude.records.status import Status
from etude.secrets import without_secrets
from etude.sweeps.board import Board
from etude.sweeps.forking import prepare_to_fork
from etude.sweeps.job import Job, key_of, name_of
from etude.sweeps.multirun import SweptRun
from etude.sweeps.pool import Pool, Task, start_method
from etude.sweeps.slots import Slot, beside_each_other, slots, threads_each, visible_gpus
from etude.sweeps.study import Study
from etude.training.state import asked_for, finished_at_once

if TYPE_CHECKING:
    from etude.models.cost import Cost

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
        config: of the sweep.
        n_jobs: at once; `auto` is as many as the GPUs have places for, or on a CPU one, or as many
            small ones as there are cores (`slots.beside_each_other`).
        jobs_per_gpu: how many share a GPU.
    """

    swept: SweptRun
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
        study = Study(self.swept.folder)
        notes = _Notes(study)
        places = self._slots()
        board = Board(self.swept.total, len(places), done=first)
        taken: dict[int, Sequence[str]] = {}
        numbers: dict[str, int] = {}
        paused: dict[str, int] = {}  # trials that may be asked for once more
        firsts: dict[tuple[Path, str], int] = {}  # the first job of equal ones

        def note(job: Job) -> None:
            if job.status is Status.PAUSED and decide is not None:
                paused[job.key] = numbers[job.key]
            notes.add(job)
            if ended is not None:
                ended(job)

        def tasks() -> Iterator[Task | None]:
            prepared = False
            for overrides in job_overrides:
                if overrides is None:
                    yield None
                    continue
                key = key_of(of_the_job(overrides))
                number = paused.pop(key, first + len(taken))
                taken[number], numbers[key] = overrides, number
                task, checked = self._task(number, overrides, study, decide)
                if task.over is None and checked is not None:
                    wanted = asked_for(checked)
                    task.run, same = wanted[0], firsts.setdefault(wanted, number)
                    if decide is None and same != number:
                        task.same_as = same + 1
                    else:
                        task.over = self._over(task, checked, board)
                if task.over is None and task.same_as is None:
                    notes.write()
                    if start_method() == "fork" and checked is not None and not prepared:
                        prepared = True
                        step = prepare_to_fork(checked)
                        if step is not None and decide is None:
                            self._use_all_cores(step, pool, board)
                yield task

        stop = str(self.config.run.on_error) == "stop"
        pool = Pool(places, board, note, stop_at_error=stop)
        try:
            jobs = pool.run(tasks())
        finally:
            notes.write()
            board.close()
        asked = [taken[number] for number in sorted(taken)]
        return [_returned(job, overrides) for job, overrides in zip(jobs, asked, strict=True)]

    def _slots(self, n_jobs: int | str | None = None) -> list[Slot]:
        trainer = self.config.trainer
        alone = trainer.get("accelerator") == "cpu" or trainer.get("devices", 1) != 1
        gpus = [] if alone else visible_gpus()
        environment: Any = OmegaConf.to_container(self.config.hydra.job.env_set)
        try:
            places = slots(n_jobs or self.n_jobs, self.jobs_per_gpu, gpus=gpus)
        except InvalidArguments as error:
            problems = [problem.under("hydra.launcher") for problem in error.problems]
            raise RequestError(problems) from error
        return [replace(one, environment={**environment, **one.environment}) for one in places]

    def _use_all_cores(self, step: Cost, pool: Pool, board: Board) -> None:
        """Runs small jobs on a CPU beside each other, where nobody said how many."""
        from etude.sweeps.speed import device_of, free_memory

        device = device_of(str(self.config.trainer.get("accelerator", "auto")))
        if self.n_jobs != "auto" or device.type != "cpu" or pool.runs:
            return
        count = beside_each_other(step, self.swept.total, free_memory(device))
        if count > 1:
            log.info(
                "%d jobs at a time, %s each, as a step is small (%.2g GFLOP); another number of "
                "threads rounds sums otherwise; hydra.launcher.n_jobs=1 takes them one by one",
                count,
                "one thread" if (threads := threads_each()) == 1 else f"{threads} threads",
                step.training_flops / 1e9,
            )
            pool.offer(self._slots(count))
            board.at_once = count

    def _waiting(self, overrides: Sequence[str]) -> Job:
        typed = of_the_job(overrides)
        return Job(name_of(typed), Status.WAITING, overrides=without_secrets(typed))

    def _over(self, task: Task, checked: Checked, board: Board) -> Job | None:
        """The end of a job whose run is finished; None where that takes a process to find out."""
        began, said = time.monotonic(), io.StringIO()
        try:
            with logged_to(said):
                outcome = finished_at_once(checked)
        except EtudeError:  # reported by the job, as all that is wrong is
            return None
        if outcome is None:
            return None
        board.started(task.number, task.job.label)
        board.line(task.number, logging.INFO, checked.mask.text(said.getvalue().rstrip()))
        took = round(time.monotonic() - began, 2)
        path = str(outcome.record.path)
        return replace(task.job, status=outcome.of_the_job, path=path, seconds=took)

    def _task(
        self, number: int, overrides: Sequence[str], study: Study, decide: Decide | None
    ) -> tuple[Task, Checked | None]:
        """What is to be done for a job, and its config; None if that is wrong, which the job
        reports."""
        job, typed = self._waiting(overrides), of_the_job(overrides)
        validated = None if decide is None else partial(decide, tuple(overrides))
        call: Callable[[], Job] = partial(replace, job)
        task = Task(number + 1, job, call, study.log_file(job), validated)
        try:
            config = composed([*self._elsewhere, *typed])
        except RequestError as error:
            task.over = replace(job, status=Status.REFUSED, message=str(error))
            return task, None
        checked = None
        with suppress(EtudeError):
            checked = check(config)
            self.swept.without_secrets(checked.mask)
        handed = checked if start_method() == "fork" else None  # another process checks anew
        task.call = partial(self.swept.carry_out, typed, config, handed, first=number == 0)
        return task, checked

    @property
    def _elsewhere(self) -> list[str]:
        """Where further files lie, if that was typed."""
        typed: list[str] = list(self.config.hydra.overrides.hydra)
        return [item for item in typed if item.startswith("hydra.searchpath=")]


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
        if job.status is not Status.REUSED or time.monotonic() > self._written + _SECONDS_BETWEEN:
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


def _returned(job: Job, overrides: Sequence[str]) -> JobReturn:
    done = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    done.return_value = job
    return done
