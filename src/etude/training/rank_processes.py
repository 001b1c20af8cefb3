"""Starts, monitors and ends the other processes of a run that trains in several processes (ranks).

Rank 0 is the process that the user started: it locks the run, writes the run's folder and handles
signals. The other ranks (`rank.py`) receive their request on standard input, which stays open: when
rank 0 ends for any reason, the other ranks end too. They report their state on standard output;
their standard error goes to the run's log.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from omegaconf import OmegaConf

from etude.config.checks import CheckedConfig
from etude.counts import counted
from etude.errors import EtudeError, Interrupted, Problem, RequestError
from etude.training.ddp import abort, join, leave, open_store
from etude.training.devices import cores
from etude.training.session import TrainingSession

log = logging.getLogger("etude")

_BOOT = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
import json, sys
request = json.loads(sys.stdin.readline())
sys.path[:] = request["path"]
from etude.training.rank import main
main(request)
"""
_FINISH_TIMEOUT = 30.0  # seconds for a rank to end by itself after rank 0 has finished
_END_TIMEOUT = 5.0  # seconds for a rank to end after its input is closed
_EXPLAIN_TIMEOUT = 5.0  # seconds to find the rank that broke a connection


class RankFailed(EtudeError):
    """Raised when another rank fails, which ends the run.

    Args:
        rank: Rank of the process.
        reason: Error that the process reported, or how it ended.
        out_of_memory: Whether the process ran out of memory.
    """

    def __init__(self, rank: int, reason: str, out_of_memory: bool = False) -> None:
        super().__init__(f"rank {rank}: {reason}")
        self.rank, self.reason, self.out_of_memory = rank, reason, out_of_memory


@contextmanager
def running_ranks(
    checked: CheckedConfig,
    session: TrainingSession,
    *,
    step: int,
    checkpoint: Path | None,
    data: Any,
) -> Iterator[None]:
    """Context manager that starts all ranks except rank 0, and ends them on exit.

    Does nothing for a run in one process.

    Args:
        checked: Checked config of the run.
        session: Objects that train in this process, rank 0.
        step: Number of optimizer steps that are already trained.
        checkpoint: Checkpoint from which the run continues; None if it starts from the beginning.
        data: Prepared data.

    Raises:
        RankFailed: Another rank failed; raised instead of the error that the failure caused in this
            process.
        Interrupted: A signal came before all ranks were ready.
        RequestError: This process already belongs to another process group.
    """
    trainer = session.trainer
    world: int = trainer.world_size
    if world == 1:
        yield
        return
    if dist.is_initialized():
        expected = "1, because this process already belongs to a process group"
        hint = "to leave the group, call torch.distributed.destroy_process_group()"
        raise RequestError(Problem("trainer.devices", expected, world, hint))
    device: torch.device = trainer.strategy.root_device
    if device.type == "cpu" and world > cores():
        log.warning("%d processes share %d CPU cores", world, cores())
    threads = torch.get_num_threads()
    log.info("%d processes, each with %s", world, counted(threads, "thread"))
    store = open_store(world)
    ranks = RankProcesses(
        world,
        {
            "config": OmegaConf.to_yaml(checked.config, resolve=False),
            "record": str(session.loop.record.path),
            "checkpoint": str(checkpoint) if checkpoint else None,
            "step": step,
            "content": data.fingerprint(),
            "port": store.port,
        },
    )
    done = False
    try:
        ranks.wait_until_ready(lambda: session.loop.signals.requested)
        join(store, rank=0, world=world, device=device)
        trainer.callbacks.insert(0, _FailureCheck(ranks))
        yield
        done = True
    except Exception as error:
        explained = ranks.explain(error)
        if explained is error:
            raise
        raise explained from error
    finally:
        try:
            ranks.end(patient=done)
        finally:
            leave(broken=not done)


class RankProcesses:
    """Processes of all ranks except rank 0.

    Args:
        world: Number of processes of the run, including rank 0.
        common: Fields of the request that are the same for all ranks; see `rank.RankRequest`.
    """

    def __init__(self, world: int, common: dict[str, Any]) -> None:
        request = {
            **common,
            "world": world,
            "threads": torch.get_num_threads(),
            "parent": os.getpid(),
            "path": sys.path,
        }
        self._ending = False
        self._failures: list[RankFailed] = []
        self._all: list[_RankProcess] = []
        try:
            for rank in range(1, world):
                self._all.append(_RankProcess({**request, "rank": rank}, self._on_end))
        except BaseException:
            self.end(patient=False)
            raise

    def wait_until_ready(self, requested: Callable[[], int | None]) -> None:
        """Waits until every rank is ready to train.

        Args:
            requested: Function that returns the number of the signal that requested a stop, or
                None.

        Raises:
            Interrupted: A signal requested a stop.
            RankFailed: A rank failed.
        """
        while not all(process.ready for process in self._all):
            if (signum := requested()) is not None:
                raise Interrupted(signum)
            self.check()
            time.sleep(0.02)

    def check(self) -> None:
        """Raises `RankFailed` if a rank has failed."""
        if self._failures:
            raise self._failures[0]

    def explain(self, error: Exception) -> Exception:
        """Returns the failure of another rank that caused `error` in this process; `error` itself
        if no rank failed.
        """
        if not isinstance(error, RankFailed) and not is_lost_connection(error):
            return error
        until = time.monotonic() + _EXPLAIN_TIMEOUT
        while time.monotonic() < until:
            causes = [failure for failure in self._failures if not is_lost_connection(failure)]
            if causes:
                return causes[0]
            time.sleep(0.02)
        return self._failures[0] if self._failures else error

    def end(self, *, patient: bool) -> None:
        """Ends all ranks.

        Args:
            patient: Whether the ranks have finished training, so that they are first given time to
                report it. In both cases, their input is then closed, which makes them end, and
                ranks that don't end are killed.
        """
        self._ending = True
        try:
            if patient:
                until = time.monotonic() + _FINISH_TIMEOUT
                while any(f.running and not f.done for f in self._all) and time.monotonic() < until:
                    time.sleep(0.02)
            for process in self._all:
                process.close()
            for process in self._all:
                process.wait(_END_TIMEOUT)
        finally:
            for process in self._all:
                process.kill()

    def _on_end(self, process: _RankProcess) -> None:
        if self._ending or process.done:
            return
        self._failures.append(process.failure())
        abort()


class _RankProcess:
    """Process of one rank, with threads that read its output and wait for its end.

    Args:
        request: The rank's `rank.RankRequest`.
        ended: Called with this object when the process has ended.
    """

    def __init__(self, request: dict[str, Any], ended: Callable[[_RankProcess], None]) -> None:
        self.rank: int = request["rank"]
        self.ready = self.done = False
        self._failed: dict[str, Any] = {}
        self._last_line = ""
        ranks = {"RANK": self.rank, "LOCAL_RANK": self.rank, "WORLD_SIZE": request["world"]}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **{key: str(value) for key, value in ranks.items()}},
            encoding="utf-8",
            errors="replace",
        )
        log.debug("rank %d is process %d", self.rank, self._process.pid)
        self._readers = [Thread(target=read, daemon=True) for read in (self._listen, self._log)]
        self._waiter = Thread(target=self._wait, args=[ended], daemon=True)
        for thread in (*self._readers, self._waiter):
            thread.start()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the waiting thread notices the end of the process
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def failure(self) -> RankFailed:
        """Returns the error that describes why the process ended before training was complete."""
        if self._failed:
            return RankFailed(self.rank, self._failed["error"], self._failed["out_of_memory"])
        code = self._process.returncode
        if code < 0:
            return RankFailed(self.rank, f"killed by {signal.Signals(-code).name}")
        if code == 1 and self._last_line:  # the last line of a traceback, before it could report
            return RankFailed(self.rank, self._last_line)
        return RankFailed(self.rank, f"ended with exit code {code}")

    def close(self) -> None:
        """Closes the input of the process, which makes it end."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Waits until the process has ended and its output is read, for at most `seconds`, plus one
        second for each output stream.
        """
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        for thread in self._readers:
            thread.join(1.0)  # a child process of it may hold the other end open

    def kill(self) -> None:
        """Kills the process if it is running."""
        if self.running:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if message["is"] == "ready":
                self.ready = True
            elif message["is"] == "done":
                self.done = True
            else:
                self._failed = message

    def _log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            log.debug("rank %d: %s", self.rank, line.rstrip())
            self._last_line = line.strip() or self._last_line

    def _wait(self, ended: Callable[[_RankProcess], None]) -> None:
        self._process.wait()
        for thread in self._readers:
            thread.join(1.0)
        ended(self)


class _FailureCheck(pl.Callback):
    """Callback that raises the failure of another rank after the current step.

    The run then ends even if rank 0 never waits for the failed rank.
    """

    def __init__(self, ranks: RankProcesses) -> None:
        self._ranks = ranks

    def on_train_batch_end(self, *_: Any) -> None:
        self._ranks.check()


def is_lost_connection(error: Exception) -> bool:
    """Returns whether `error` may be caused by the end of another rank."""
    text = str(error)
    return isinstance(error, RuntimeError | EtudeError) and any(
        word in text for word in ("gloo", "NCCL", "Connection", "TCPStore")
    )
