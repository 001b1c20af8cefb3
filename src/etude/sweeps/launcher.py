"""Default launcher of sweeps, which runs each job in a process of its own."""

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

from etude.config.checks import CheckedConfig, check
from etude.config.compose import compose_in_search
from etude.config.compose import job_overrides as overrides_of_job
from etude.console import redirect_log
from etude.errors import EtudeError, InvalidArguments, RequestError
from etude.records.status import Status
from etude.secrets import mask_record
from etude.sweeps.dashboard import Dashboard
from etude.sweeps.forking import prepare_to_fork
from etude.sweeps.job import Job, job_key, job_name
from etude.sweeps.job_slots import (
    JobSlot,
    job_slots,
    small_job_count,
    threads_per_small_job,
    visible_gpus,
)
from etude.sweeps.multirun import JobFunction
from etude.sweeps.pool import JobTask, Pool, start_method
from etude.sweeps.sweep_record import SweepRecord
from etude.training.state import request_key, reuse_finished

if TYPE_CHECKING:
    from etude.models.cost import Cost

log = logging.getLogger("etude")

_WRITE_SECONDS = 2.0
"""Minimum time between two writes of `sweep.json` while finished runs are reused."""

Decide = Callable[[Sequence[str], int, Mapping[str, float]], bool]
"""Function of a job's overrides, an optimizer step and the validation metrics at that step, which
returns whether to pause the run."""


@dataclass
class SweepLauncher:
    """Hydra launcher that runs each job of a sweep in its own process.

    Attributes:
        swept: task function that `multirun` passed to Hydra.
        config: config of the sweep.
        n_jobs: number of parallel jobs. `auto` means `jobs_per_gpu` jobs on each GPU. On a CPU,
            `auto` means one job at a time or, if jobs are small, one job on each core
            (`job_slots.small_job_count`).
        jobs_per_gpu: number of jobs that share a GPU.
    """

    swept: JobFunction
    config: DictConfig
    n_jobs: int | str = "auto"
    jobs_per_gpu: int = 1

    def launch(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Runs a list of jobs, and returns them with their results.

        Args:
            job_overrides: overrides of each job.
            first: index of the first of these jobs in the sweep, from 0.

        Returns:
            The results in the form that Hydra expects; the attribute `return_value` is the `Job`.
        """
        returns = self.launch_each(iter(job_overrides), first=first)
        not_started = list(job_overrides)[len(returns) :]  # with run.on_error=stop
        for overrides in not_started:
            job = self._waiting_job(overrides)
            returns.append(_returned(job, overrides))
        return returns

    def launch_each(
        self,
        job_overrides: Iterator[Sequence[str] | None],
        *,
        first: int = 0,
        ended: Callable[[Job], None] | None = None,
        decide: Decide | None = None,
    ) -> list[JobReturn]:
        """Runs jobs from an iterator; the next job is requested when a job slot is free.

        Args:
            job_overrides: overrides of each job. None means that no job is available until a
                running job has ended.
            first: index of the first of these jobs in the sweep, from 0.
            ended: function that is called with each job that has ended, before the next job is
                requested.
            decide: function that is called after each validation with the job's overrides, the step
                and the metrics; returns whether to pause the run.

        Returns:
            The results in the form that Hydra expects; the attribute `return_value` is the `Job`.

        Raises:
            RequestError: If `n_jobs` exceeds the capacity of this machine.
            Interrupted: If a signal ended the sweep.
        """
        record = SweepRecord(self.swept.folder)
        writer = _RecordWriter(record)
        slots = self._slots()
        dashboard = Dashboard(self.swept.total, len(slots), done=first)
        overrides_of: dict[int, Sequence[str]] = {}
        numbers: dict[str, int] = {}
        paused: dict[str, int] = {}  # trials that may be resumed
        first_numbers: dict[tuple[Path, str], int] = {}  # by request

        def record_end(job: Job) -> None:
            if job.status is Status.PAUSED and decide is not None:
                paused[job.key] = numbers[job.key]
            writer.add(job)
            if ended is not None:
                ended(job)

        def tasks() -> Iterator[JobTask | None]:
            is_prepared = False
            for overrides in job_overrides:
                if overrides is None:
                    yield None
                    continue
                key = job_key(overrides_of_job(overrides))
                number = paused.pop(key, first + len(overrides_of))
                overrides_of[number], numbers[key] = overrides, number
                task, checked = self._task(number, overrides, record, decide)
                if task.result is None and checked is not None:
                    request = request_key(checked)
                    task.run, same = request[0], first_numbers.setdefault(request, number)
                    if decide is None and same != number:
                        task.same_as = same + 1
                    else:
                        task.result = self._reused_result(task, checked, dashboard)
                if task.result is None and task.same_as is None:
                    writer.write()
                    if start_method() == "fork" and checked is not None and not is_prepared:
                        is_prepared = True
                        step = prepare_to_fork(checked)
                        if step is not None and decide is None:
                            self._use_all_cores(step, pool, dashboard)
                yield task

        stop = str(self.config.run.on_error) == "stop"
        pool = Pool(slots, dashboard, record_end, stop_at_error=stop)
        try:
            jobs = pool.run(tasks())
        finally:
            writer.write()
            dashboard.close()
        started = [overrides_of[number] for number in sorted(overrides_of)]
        return [_returned(job, overrides) for job, overrides in zip(jobs, started, strict=True)]

    def _slots(self, n_jobs: int | str | None = None) -> list[JobSlot]:
        trainer = self.config.trainer
        without_gpus = trainer.get("accelerator") == "cpu" or trainer.get("devices", 1) != 1
        gpus = [] if without_gpus else visible_gpus()
        environment: Any = OmegaConf.to_container(self.config.hydra.job.env_set)
        try:
            slots = job_slots(n_jobs or self.n_jobs, self.jobs_per_gpu, gpus=gpus)
        except InvalidArguments as error:
            problems = [problem.under("hydra.launcher") for problem in error.problems]
            raise RequestError(problems) from error
        return [replace(slot, environment={**environment, **slot.environment}) for slot in slots]

    def _use_all_cores(self, step: Cost, pool: Pool, dashboard: Dashboard) -> None:
        """Lets the pool run one job on each core, if jobs are small and run on a CPU.

        Does nothing unless `n_jobs` is `auto`.

        Args:
            step: FLOP and memory of a micro-batch of the first job.
            pool: pool of job processes.
            dashboard: display of the progress.
        """
        from etude.sweeps.speed import device_of, free_memory

        device = device_of(str(self.config.trainer.get("accelerator", "auto")))
        if self.n_jobs != "auto" or device.type != "cpu" or pool.is_running:
            return
        count = small_job_count(step, self.swept.total, free_memory(device))
        if count > 1:
            log.info(
                "running %d jobs in parallel, %s each, because a micro-batch is small (%.2g "
                "GFLOP). The number of threads changes the rounding of sums; to run one job at a "
                "time with all threads, set hydra.launcher.n_jobs=1",
                count,
                "one thread" if (threads := threads_per_small_job()) == 1 else f"{threads} threads",
                step.training_flops / 1e9,
            )
            pool.set_slots(self._slots(count))
            dashboard.at_once = count

    def _waiting_job(self, overrides: Sequence[str]) -> Job:
        typed = overrides_of_job(overrides)
        return Job(job_name(typed), Status.WAITING, overrides=mask_record(typed))

    def _reused_result(
        self, task: JobTask, checked: CheckedConfig, dashboard: Dashboard
    ) -> Job | None:
        """Returns the job's result if its run is already finished, and shows it; otherwise None.

        Args:
            task: task of the job.
            checked: the job's checked config.
            dashboard: display that shows the start and the messages of the job.
        """
        began, log_text = time.monotonic(), io.StringIO()
        try:
            with redirect_log(log_text):
                outcome = reuse_finished(checked)
        except EtudeError:  # reported when the job runs
            return None
        if outcome is None:
            return None
        dashboard.started(task.number, task.job.label)
        text = checked.mask.text(log_text.getvalue().rstrip())
        dashboard.log_line(task.number, logging.INFO, text)
        seconds = round(time.monotonic() - began, 2)
        path = str(outcome.record.path)
        return replace(task.job, status=outcome.job_status, path=path, seconds=seconds)

    def _task(
        self, number: int, overrides: Sequence[str], record: SweepRecord, decide: Decide | None
    ) -> tuple[JobTask, CheckedConfig | None]:
        """Returns the task with which the pool runs a job, and the job's checked config.

        The checked config is None if the config is invalid; the job then reports the error.

        Args:
            number: index of the job in the sweep, from 0.
            overrides: overrides of the job.
            record: writer of the sweep's folder.
            decide: see `launch_each`.
        """
        job, typed = self._waiting_job(overrides), overrides_of_job(overrides)
        validated = None if decide is None else partial(decide, tuple(overrides))
        call: Callable[[], Job] = partial(replace, job)
        task = JobTask(number + 1, job, call, record.log_file(job), validated)
        try:
            config = compose_in_search([*self._search_path, *typed])
        except RequestError as error:
            task.result = replace(job, status=Status.REFUSED, message=str(error))
            return task, None
        checked = None
        with suppress(EtudeError):
            checked = check(config)
            self.swept.without_secrets(checked.mask)
        # A spawned process checks the config again.
        inherited = checked if start_method() == "fork" else None
        task.call = partial(self.swept.run_job, typed, config, inherited, first=number == 0)
        return task, checked

    @property
    def _search_path(self) -> list[str]:
        """The user's override of `hydra.searchpath`, as a list; empty without such an override."""
        typed: list[str] = list(self.config.hydra.overrides.hydra)
        return [item for item in typed if item.startswith("hydra.searchpath=")]


class _RecordWriter:
    """Writer of jobs' results to `sweep.json`.

    The results of jobs that reuse a finished run are buffered and written together, because such
    jobs end quickly.
    """

    def __init__(self, record: SweepRecord) -> None:
        self._record = record
        self._buffer: list[Job] = []
        self._last_write = time.monotonic()

    def add(self, job: Job) -> None:
        """Adds a job's result to the buffer, and writes the buffer to `sweep.json`.

        If the job reused a finished run, the buffer is written only if it was last written more
        than `_WRITE_SECONDS` seconds ago; if not, a later call of `add` or `write` writes it.
        """
        self._buffer.append(job)
        if job.status is not Status.REUSED or time.monotonic() > self._last_write + _WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Writes the buffered results to `sweep.json`; logs a warning if that fails."""
        if not self._buffer:
            return
        try:
            self._record.note(*self._buffer)
        except OSError as error:  # the runs have records of their own
            log.warning("could not write %s: %s", self._record.file, error)
        self._buffer, self._last_write = [], time.monotonic()


def _returned(job: Job, overrides: Sequence[str]) -> JobReturn:
    """Returns a job in the form that Hydra expects: as the `return_value` of a `JobReturn`."""
    job_return = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    job_return.return_value = job
    return job_return
