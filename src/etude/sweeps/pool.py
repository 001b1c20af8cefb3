"""Execution of jobs in parallel processes; a job that crashes doesn't affect the others."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from etude.errors import Interrupted, RunHeld
from etude.records import provenance
from etude.records.lock import RunLock
from etude.records.opening import LOG, open_for_append
from etude.records.record import Record
from etude.records.status import Status
from etude.stopping import (
    SIGNALLED,
    STOP_SIGNALS,
    begin_saving,
    end_saving,
    is_watching,
    write_stderr,
)
from etude.sweeps.dashboard import Dashboard
from etude.sweeps.job import Job
from etude.sweeps.job_process import Stopped, run_job_process
from etude.sweeps.job_slots import JobSlot

log = logging.getLogger("etude")

START = "fork" if sys.platform == "linux" else "spawn"
"""Start method of job processes. Forking saves seconds of imports, but is unsafe on macOS."""

_TICK = 0.5  # seconds
_EVENTS = Path("/sys/fs/cgroup/memory.events")


def start_method() -> str:
    """Returns the multiprocessing start method for a job.

    The method is `fork` on Linux, and `spawn` on other systems. It is also `spawn` if this process
    has initialised CUDA, because a forked process could not use CUDA.
    """
    torch = sys.modules.get("torch")
    return "spawn" if torch is not None and torch.cuda.is_initialized() else START


@dataclass
class JobTask:
    """Task of a pool: a job, and the function that runs it.

    Attributes:
        number: number of the job, from 1.
        job: the job as it is before it starts, with label and overrides.
        call: function that runs the job, called in the job's process.
        log_file: log file of the job's process.
        validated: function that is called in the pool's process with the step and the metrics of
            each validation, and returns whether to pause the run. None never pauses.
        result: result of a job whose run is already finished; then no process is started. Otherwise
            None.
        same_as: number of an earlier job that requests the same run; None without such a job. The
            job gets the same result, and no process is started.
        run: folder of the run. Jobs with the same folder run one after the other. None if no other
            job uses the folder.
    """

    number: int
    job: Job
    call: Callable[[], Job]
    log_file: Path
    validated: Callable[[int, Mapping[str, float]], bool] | None = None
    result: Job | None = None
    same_as: int | None = None
    run: Path | None = None


@dataclass
class _RunningJob:
    task: JobTask
    process: BaseProcess
    connection: Connection
    slot: JobSlot
    began: float
    open: bool = True
    path: str | None = None
    end: Job | None = None
    stopped: int | None = None
    signalled: bool = False
    kills: int = field(default_factory=lambda: _oom_kills())


class Pool:
    """Pool that runs jobs in parallel, each in its own process.

    Args:
        slots: job slots: for each of the jobs that run in parallel, the resources it may use.
        dashboard: display of the progress.
        ended: function that is called with each job as soon as the job has ended.
        stop_at_error: whether to start no further jobs after a failure. Running jobs continue.
    """

    notice = "the jobs save their state and stop; to resume, run the same command"

    def __init__(
        self,
        slots: Sequence[JobSlot],
        dashboard: Dashboard,
        ended: Callable[[Job], None],
        *,
        stop_at_error: bool = False,
    ) -> None:
        self._free = list(slots)
        self._dashboard = dashboard
        self._ended = ended
        self._stop_at_error = stop_at_error
        self._failed = False
        self._running: list[_RunningJob] = []
        self._done: dict[int, Job] = {}
        self._duplicates: list[JobTask] = []
        self._blocked: list[
            tuple[JobTask, _RunningJob]
        ] = []  # with the job that trains the same run
        self._signum: int | None = None
        self._process = os.getpid()
        self._context: Any = multiprocessing.get_context(start_method())
        self._starter = ThreadPoolExecutor(1, "starts-jobs")

    def run(self, tasks: Iterator[JobTask | None]) -> list[Job]:
        """Runs all tasks, each job in its own process, and returns the jobs.

        Args:
            tasks: the tasks; the next task is requested when a job slot is free. The item None
                means that no task is available until a running job has ended.

        Returns:
            The jobs in the order of their numbers.

        Raises:
            Interrupted: If a signal was received. The signal was forwarded to the jobs, and all
                jobs have ended.
        """
        previous_handlers = self._install_handlers()
        try:
            while True:
                has_more = self._start_tasks(tasks)
                is_unfinished = has_more or self._blocked
                if not self._running and (self._stopping or not is_unfinished):
                    break
                self._wait_for_events()
                self._collect_ended()
                self._dashboard.refresh()
        except BaseException:
            for one in self._running:
                one.process.kill()
            raise
        finally:
            end_saving(self)
            for number, handler in previous_handlers.items():
                signal.signal(number, handler)
            self._starter.shutdown()
        if self._signum is not None:
            raise Interrupted(self._signum)
        return [self._done[number] for number in sorted(self._done)]

    def _start_tasks(self, tasks: Iterator[JobTask | None]) -> bool:
        """Starts jobs until all job slots are in use.

        Returns false if there are no more tasks, otherwise true.

        Args:
            tasks: see `run`.
        """
        while self._free and not self._stopping:
            if (unblocked := self._next_unblocked()) is not None:
                self._dispatch(unblocked)
            else:
                try:
                    task = next(tasks)
                except StopIteration:
                    return False
                if task is None or self._stopping:  # creating the task may take seconds
                    break
                self._dispatch(task)
        return True

    def _dispatch(self, task: JobTask) -> None:
        """Starts the job of a task in a process, if it needs one and can start now.

        A job that needs no process, because its result is known, ends at once. A job whose run
        folder is in use by another job waits for that job.
        """
        if task.same_as is not None:
            self._duplicates.append(task)
            self._end_duplicates()
        elif task.result is not None:
            self._end(task, task.result)
        elif (sibling := self._job_in_folder(task.run)) is not None:
            self._wait_for(sibling, task)
        else:
            self._start(task)

    def _collect_ended(self) -> None:
        """Frees the slots of processes that have ended, and ends their jobs.

        If another job of this sweep is training the same run, the job waits for that job instead.
        """
        for one in [each for each in self._running if not each.process.is_alive()]:
            job = self._collect(one)
            if (sibling := self._holder_of(job)) is not None and not self._stopping:
                self._wait_for(sibling, one.task)
            else:
                self._end(one.task, job)

    def _end(self, task: JobTask, job: Job) -> None:
        """Stores and reports a job that has ended.

        The later jobs that request the same run end, too, with the same result.

        Args:
            task: the job's task, as passed to `run`.
            job: the job with its result.
        """
        self._done[task.number] = job
        self._failed = self._failed or job.status.is_failure
        self._ended(job)
        self._dashboard.ended(task.number, job, same_as=task.same_as)
        if task.same_as is None:
            self._end_duplicates()

    def _end_duplicates(self) -> None:
        for task in [each for each in self._duplicates if each.same_as in self._done]:
            self._duplicates.remove(task)
            first = self._done[task.same_as or 0]
            job = replace(first, label=task.job.label, overrides=task.job.overrides)
            self._end(task, replace(job, seconds=0.0, traceback=None, same_as=first.key))

    @property
    def is_running(self) -> bool:
        """Whether a job is running."""
        return bool(self._running)

    def set_slots(self, slots: Sequence[JobSlot]) -> None:
        """Replaces the slots; allowed only while no job is running."""
        assert not self._running
        self._free = list(slots)

    @property
    def _stopping(self) -> bool:
        return self._signum is not None or (self._failed and self._stop_at_error)

    def _wait_for(self, sibling: _RunningJob, task: JobTask) -> None:
        self._blocked.append((task, sibling))
        self._dashboard.waiting(task.number)

    def _job_in_folder(self, run: Path | None) -> _RunningJob | None:
        """Returns the running job that uses the run folder `run`; None if there is no such job."""
        jobs = (one for one in self._running if one.task.run == run)
        return None if run is None else next(jobs, None)

    def _holder_of(self, job: Job) -> _RunningJob | None:
        """Returns the running job of this sweep that is training the run of `job`.

        `job` could not train its run, because another process was using it. Returns None if that
        process does not belong to this sweep.
        """
        if job.status is not Status.HELD:
            return None
        return next((one for one in self._running if one.path == job.path), None)

    def _next_unblocked(self) -> JobTask | None:
        """Returns a task that waited for another job, if that job has ended; otherwise None.

        The task is removed from the waiting tasks.
        """
        for task, sibling in self._blocked:
            if sibling not in self._running:
                self._blocked.remove((task, sibling))
                return task
        return None

    # -- signals ----------------------------------------------------------------------------

    def _install_handlers(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}
        begin_saving(self)
        return {
            number: signal.signal(number, self._forward)
            for number in STOP_SIGNALS
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
        }

    def saves(self) -> bool:
        """Returns true: running jobs always save their state when the first signal arrives.

        See `etude.stopping.Saving`.
        """
        return True

    def _forward(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a job that has not installed its handlers yet
            raise Stopped(signum)
        if self._signum is None and not is_watching():
            write_stderr(f"{signal.Signals(signum).name}: {self.notice}\n")
        self._signum = self._signum or signum
        for one in self._running:
            self._signal(one, signum)

    def _signal(self, one: _RunningJob, signum: int) -> None:
        one.signalled = True
        if one.process.is_alive() and one.process.pid is not None:
            os.kill(one.process.pid, signum)

    # -- processes --------------------------------------------------------------------------

    def _start(self, task: JobTask) -> None:
        """Starts the process of a job, from a thread that only starts processes.

        The thread must not have used OpenMP, whose worker threads a fork doesn't copy: the forked
        job would wait for them forever. It must also outlive the job, because the job is killed
        when the thread that started it ends.
        """
        own_end, job_end = self._context.Pipe()
        slot = self._free.pop(0)
        arguments = (job_end, os.getpid(), task.call, slot, task.log_file)
        process = self._context.Process(target=run_job_process, args=arguments)
        self._dashboard.started(task.number, task.job.label)
        sys.stdout.flush()
        sys.stderr.flush()
        self._starter.submit(process.start).result()
        job_end.close()  # otherwise the end of the connection is not detected
        one = _RunningJob(task, process, own_end, slot, time.monotonic())
        self._running.append(one)
        if self._signum is not None and not one.signalled:  # received during the start
            self._signal(one, self._signum)

    def _wait_for_events(self) -> None:
        """Waits until a job sends an event or ends, for at most `_TICK` seconds.

        Received events are handled.
        """
        sentinels = [one.process.sentinel for one in self._running]
        ready = wait([*(one.connection for one in self._running if one.open), *sentinels], _TICK)
        for one in self._running:
            if one.connection in ready:
                self._receive(one)

    def _receive(self, one: _RunningJob) -> None:
        """Handles the events, such as progress, that a job has sent; see `run_job_process`."""
        while one.open and one.connection.poll():
            try:
                kind, content = one.connection.recv()
            except (EOFError, OSError):
                one.open = False
                return
            number = one.task.number
            if kind == "line":
                self._dashboard.log_line(number, *content)
            elif kind == "progress":
                self._dashboard.progress(number, *content)
            elif kind == "began":
                one.path = content
            elif kind == "validated":
                decide = one.task.validated
                one.connection.send(bool(decide and decide(*content)))
            elif kind == "ended":
                one.end = content
            elif kind == "stopped":
                one.stopped = content

    def _collect(self, one: _RunningJob) -> Job:
        """Frees the slot of a process that has ended, and returns its job with the result.

        If the process sent no result, the status is derived from how the process ended.
        """
        self._receive(one)
        one.process.join()
        one.connection.close()
        self._running.remove(one)
        self._free.append(one.slot)
        job = one.end or one.task.job
        if one.end is None:
            job.path = one.path
            by_signal = (one.process.exitcode or 0) - SIGNALLED in STOP_SIGNALS
            if one.stopped is not None or self._signum is not None or by_signal:
                job.status = Status.INTERRUPTED
            else:
                self._set_failure(job, one)
        job.seconds = round(time.monotonic() - one.began, 2)
        job.overrides = one.task.job.overrides
        return job

    def _set_failure(self, job: Job, one: _RunningJob) -> None:
        """Sets status and message of a job whose process ended without sending a result."""
        code = one.process.exitcode or 0
        job.status = Status.FAILED
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:  # real-time signals have no name
                name = f"signal {-code}"
            job.message = f"killed by {name}"
            if -code == signal.SIGKILL and _oom_kills() > one.kills:
                job.status = Status.OOM
                job.message += ": the system ran out of memory; set a smaller"
                job.message += " trainer.micro_batch or hydra.launcher.n_jobs"
            elif -code == signal.SIGKILL:
                job.message += " (by a user, or by the system because memory ran out)"
        else:
            job.message = f"the job's process ended with exit code {code} and no error message"
        job.message += f" (log file: {one.task.log_file})"
        if job.path is not None:
            _record_failure(Path(job.path), job)


def _record_failure(folder: Path, job: Job) -> None:
    """Writes the failure of a killed job to the run folder; the killed process could not do so.

    Args:
        folder: the run folder.
        job: the job, with its status and message.
    """
    lock = RunLock(folder)
    try:
        # The data workers of the job hold the lock until they notice that the job has ended.
        lock.acquire(patience=5.0)
    except RunHeld:
        return
    try:
        record = Record.read(folder)
        record.update(status=job.status, error=job.message)
        with open_for_append(folder / "log.txt", LOG) as file:
            file.write(f"{provenance.timestamp()} ERROR {job.message}\n".encode())
    except Exception as error:
        log.warning("could not update %s: %s", folder, error)
    finally:
        lock.release()


def _oom_kills() -> int:
    """Returns the number of processes that this cgroup (v2) killed for lack of memory.

    0 if the number is unknown.
    """
    try:
        lines = dict(line.split() for line in _EVENTS.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(lines.get("oom_kill", 0))
