"""Jobs in processes of their own, several at once: what kills one leaves the others alone."""

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
from etude.records.opening import LOG, appended
from etude.records.record import Record
from etude.records.status import Status
from etude.stopping import HANDLED, SIGNALLED, begin_saving, end_saving, is_watching, say
from etude.sweeps.board import Board
from etude.sweeps.child import Stopped, child
from etude.sweeps.job import Job
from etude.sweeps.slots import Slot

log = logging.getLogger("etude")

START = "fork" if sys.platform == "linux" else "spawn"
"""A fork shares what was imported already, which takes seconds; macOS's libraries mind it."""

_TICK = 0.5  # seconds between two looks at the clock
_EVENTS = Path("/sys/fs/cgroup/memory.events")


def start_method() -> str:
    """How a job's process begins: `START`, but for a process that uses a GPU, which a copy of it
    could not.
    """
    torch = sys.modules.get("torch")
    return "spawn" if torch is not None and torch.cuda.is_initialized() else START


@dataclass
class Task:
    """What a process is to do.

    Attributes:
        number: of the job, from 1.
        job: as it is before it began: its label and overrides.
        call: carries it out, in the process.
        log_file: of the process.
        validated: hears of each validation, here; true pauses the run.
        over: its end, where nothing is left to do: no process is started.
        same_as: the number of an earlier job that is the same request: it ends as that does, and no
            process is started.
        run: the folder of its run; jobs of one folder are carried out one after the other. None is
            a job that is alone with its folder.
    """

    number: int
    job: Job
    call: Callable[[], Job]
    log_file: Path
    validated: Callable[[int, Mapping[str, float]], bool] | None = None
    over: Job | None = None
    same_as: int | None = None
    run: Path | None = None


@dataclass
class _Running:
    task: Task
    process: BaseProcess
    connection: Connection
    slot: Slot
    began: float
    open: bool = True
    path: str | None = None
    end: Job | None = None
    stopped: int | None = None
    signalled: bool = False
    kills: int = field(default_factory=lambda: _oom_kills())


class Pool:
    """Runs tasks on slots.

    Args:
        slots: a process each.
        board: is told what happens.
        ended: called with each job that ended, as soon as it did.
        stop_at_error: begin nothing after a job failed; those that run may end.
    """

    told = "the jobs save and stop; the same command goes on"

    def __init__(
        self,
        slots: Sequence[Slot],
        board: Board,
        ended: Callable[[Job], None],
        *,
        stop_at_error: bool = False,
    ) -> None:
        self._free = list(slots)
        self._board = board
        self._ended = ended
        self._stop_at_error = stop_at_error
        self._failed = False
        self._running: list[_Running] = []
        self._done: dict[int, Job] = {}
        self._same: list[Task] = []  # that end as another does
        self._again: list[tuple[Task, _Running]] = []  # the same run, and who trains it now
        self._signum: int | None = None
        self._process = os.getpid()
        self._context: Any = multiprocessing.get_context(start_method())
        self._starter = ThreadPoolExecutor(1, "starts-jobs")

    def run(self, tasks: Iterator[Task | None]) -> list[Job]:
        """Carries out all tasks; the next is asked for when there is a place for it.

        None instead of a task means that there is none before another has ended.

        Returns:
            The jobs in the order of their numbers.

        Raises:
            Interrupted: a signal came. It was passed on to the jobs, and they have ended.
        """
        before = self._install()
        try:
            while True:
                more = self._fill(tasks)
                left = more or self._again
                if not self._running and (self._stopping or not left):
                    break
                self._listen()
                self._end_those_that_died()
                self._board.tick()
        except BaseException:
            for one in self._running:
                one.process.kill()
            raise
        finally:
            end_saving(self)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._starter.shutdown()
        if self._signum is not None:
            raise Interrupted(self._signum)
        return [self._done[number] for number in sorted(self._done)]

    def _fill(self, tasks: Iterator[Task | None]) -> bool:
        """Starts jobs while there are places for them; false once there are no more tasks."""
        while self._free and not self._stopping:
            if (again := self._free_by_now()) is not None:
                self._take(again)
            else:
                try:
                    task = next(tasks)
                except StopIteration:
                    return False
                if task is None or self._stopping:  # making it took a while
                    break
                self._take(task)
        return True

    def _take(self, task: Task) -> None:
        """Starts a job, or ends it at once, or lets it wait for another."""
        if task.same_as is not None:
            self._same.append(task)
            self._end_the_same()
        elif task.over is not None:
            self._end(task, task.over)
        elif (sibling := self._with_run(task.run)) is not None:
            self._wait_for(sibling, task)
        else:
            self._start(task)

    def _end_those_that_died(self) -> None:
        for one in [each for each in self._running if not each.process.is_alive()]:
            job = self._bury(one)
            if (sibling := self._trained_by(job)) is not None and not self._stopping:
                self._wait_for(sibling, one.task)
            else:
                self._end(one.task, job)

    def _end(self, task: Task, job: Job) -> None:
        """A job has ended, and with it those that are the same run."""
        self._done[task.number] = job
        self._failed = self._failed or job.status.bad
        self._ended(job)
        self._board.ended(task.number, job, same_as=task.same_as)
        if task.same_as is None:
            self._end_the_same()

    def _end_the_same(self) -> None:
        for task in [each for each in self._same if each.same_as in self._done]:
            self._same.remove(task)
            first = self._done[task.same_as or 0]
            job = replace(first, label=task.job.label, overrides=task.job.overrides)
            self._end(task, replace(job, seconds=0.0, traceback=None, same_as=first.key))

    @property
    def runs(self) -> bool:
        """Whether a process runs."""
        return bool(self._running)

    def offer(self, slots: Sequence[Slot]) -> None:
        """Other slots than before, while no process runs."""
        assert not self._running
        self._free = list(slots)

    @property
    def _stopping(self) -> bool:
        return self._signum is not None or (self._failed and self._stop_at_error)

    def _wait_for(self, sibling: _Running, task: Task) -> None:
        self._again.append((task, sibling))
        self._board.waits(task.number)

    def _with_run(self, run: Path | None) -> _Running | None:
        """The job that runs in a run's folder."""
        here = (one for one in self._running if one.task.run == run)
        return None if run is None else next(here, None)

    def _trained_by(self, job: Job) -> _Running | None:
        """The other job of this sweep that is the very same run, and has it now."""
        if job.status is not Status.HELD:
            return None
        return next((one for one in self._running if one.path == job.path), None)

    def _free_by_now(self) -> Task | None:
        """A job whose twin has ended: it will find the run finished."""
        for task, sibling in self._again:
            if sibling not in self._running:
                self._again.remove((task, sibling))
                return task
        return None

    # -- signals ----------------------------------------------------------------------------

    def _install(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}
        begin_saving(self)
        return {
            number: signal.signal(number, self._pass_on)
            for number in HANDLED
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
        }

    def saves(self) -> bool:
        """The first signal lets each job save, if it has begun; see `etude.stopping.Saving`."""
        return True

    def _pass_on(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a job that has not yet its own handlers
            raise Stopped(signum)
        if self._signum is None and not is_watching():
            say(f"{signal.Signals(signum).name}: {self.told}\n")
        self._signum = self._signum or signum
        for one in self._running:
            self._signal(one, signum)

    def _signal(self, one: _Running, signum: int) -> None:
        one.signalled = True
        if one.process.is_alive() and one.process.pid is not None:
            os.kill(one.process.pid, signum)

    # -- processes --------------------------------------------------------------------------

    def _start(self, task: Task) -> None:
        """Starts a job from a thread that has computed nothing, and that lasts.

        OpenMP keeps its workers a thread: a copy of a thread that had some would wait for them
        for ever, since a fork copies none. And a job dies with the thread that started it.
        """
        here, there = self._context.Pipe()
        slot = self._free.pop(0)
        arguments = (there, os.getpid(), task.call, slot, task.log_file)
        process = self._context.Process(target=child, args=arguments)
        self._board.started(task.number, task.job.label)
        sys.stdout.flush()
        sys.stderr.flush()
        self._starter.submit(process.start).result()
        there.close()  # so that its end is seen
        one = _Running(task, process, here, slot, time.monotonic())
        self._running.append(one)
        if self._signum is not None and not one.signalled:  # it came meanwhile
            self._signal(one, self._signum)

    def _listen(self) -> None:
        """Waits until somebody has something to say, ends, or the clock should be looked at."""
        sentinels = [one.process.sentinel for one in self._running]
        ready = wait([*(one.connection for one in self._running if one.open), *sentinels], _TICK)
        for one in self._running:
            if one.connection in ready:
                self._hear(one)

    def _hear(self, one: _Running) -> None:
        while one.open and one.connection.poll():
            try:
                kind, content = one.connection.recv()
            except (EOFError, OSError):
                one.open = False
                return
            number = one.task.number
            if kind == "line":
                self._board.line(number, *content)
            elif kind == "progress":
                self._board.progress(number, *content)
            elif kind == "began":
                one.path = content
            elif kind == "validated":
                decide = one.task.validated
                one.connection.send(bool(decide and decide(*content)))
            elif kind == "ended":
                one.end = content
            elif kind == "stopped":
                one.stopped = content

    def _bury(self, one: _Running) -> Job:
        """The job of a process that has ended."""
        self._hear(one)
        one.process.join()
        one.connection.close()
        self._running.remove(one)
        self._free.append(one.slot)
        job = one.end or one.task.job
        if one.end is None:
            job.path = one.path
            by_force = (one.process.exitcode or 0) - SIGNALLED in HANDLED
            if one.stopped is not None or self._signum is not None or by_force:
                job.status = Status.INTERRUPTED
            else:
                self._say_how_it_died(job, one)
        job.seconds = round(time.monotonic() - one.began, 2)
        job.overrides = one.task.job.overrides
        return job

    def _say_how_it_died(self, job: Job, one: _Running) -> None:
        code = one.process.exitcode or 0
        job.status = Status.FAILED
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:  # of real time
                name = f"signal {-code}"
            job.message = f"killed by {name}"
            if -code == signal.SIGKILL and _oom_kills() > one.kills:
                job.status = Status.OOM
                job.message += ": the system was out of memory; a smaller trainer.micro_batch needs"
                job.message += " less, and so do fewer jobs at once"
            elif -code == signal.SIGKILL:
                job.message += " (by somebody, or by the system for want of memory)"
        else:
            job.message = f"its process ended with exit code {code} and said nothing"
        job.message += f" ({one.task.log_file})"
        if job.path is not None:
            _record_the_death(Path(job.path), job)


def _record_the_death(folder: Path, job: Job) -> None:
    """Writes into the run's record what its process could not."""
    lock = RunLock(folder)
    try:
        lock.acquire(patience=5.0)  # its data workers see a moment later that it is gone
    except RunHeld:
        return
    try:
        record = Record.read(folder)
        record.update(status=job.status, error=job.message)
        with appended(folder / "log.txt", LOG) as file:
            file.write(f"{provenance.now()} ERROR {job.message}\n".encode())
    except Exception as error:
        log.warning("%s could not be updated: %s", folder, error)
    finally:
        lock.release()


def _oom_kills() -> int:
    """How often the system has killed for want of memory around here (cgroup v2), if it tells."""
    try:
        lines = dict(line.split() for line in _EVENTS.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(lines.get("oom_kill", 0))
