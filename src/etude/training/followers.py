"""Rank 0's side of a run in several processes: it starts the other ranks, watches and ends them.

Rank 0 is the process that the user started: it holds the run, writes the record and handles the
signals. The others (`rank.py`) are told what to train on their standard input, which stays open:
when rank 0 ends, however it ends, so do they. On their standard output they say how far they are;
what they write to standard error goes to the run's log.
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

from etude.config.checks import Checked
from etude.errors import EtudeError, Interrupted, Problem, RequestError
from etude.training.assemble import Assembly
from etude.training.ddp import abort, join, leave, open_store
from etude.training.devices import cores

log = logging.getLogger("etude")

_BOOT = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
import json, sys
told = json.loads(sys.stdin.readline())
sys.path[:] = told["path"]
from etude.training.rank import main
main(told)
"""
_TO_FINISH = 30.0  # seconds for a rank to end by itself, after rank 0 is done
_TO_END = 5.0  # seconds for a rank to end once its input is closed
_TO_EXPLAIN = 5.0  # seconds in which the rank that broke a connection can be found


class RankFailed(EtudeError):
    """A process beside rank 0 failed, which ends the run.

    Args:
        rank: which one.
        reason: what it said of it, or how it ended.
        out_of_memory: it had too little.
    """

    def __init__(self, rank: int, reason: str, out_of_memory: bool = False) -> None:
        super().__init__(f"rank {rank}: {reason}")
        self.rank, self.reason, self.out_of_memory = rank, reason, out_of_memory


@contextmanager
def accompanied(
    checked: Checked, assembly: Assembly, *, step: int, checkpoint: Path | None, data: Any
) -> Iterator[None]:
    """Within, the other ranks of the run train along; afterwards they are gone, however it ended.

    With one process, nothing happens.

    Args:
        checked: the run's config.
        assembly: what trains in this process, rank 0.
        step, checkpoint: what the run continues from.
        data: prepared.

    Raises:
        RankFailed: one of them failed; in the place of what that led to in this process.
        Interrupted: a signal came before all were ready.
        RequestError: this process is already one of several, which somebody else has started.
    """
    trainer = assembly.trainer
    world: int = trainer.world_size
    if world == 1:
        yield
        return
    if dist.is_initialized():
        hint = "torch.distributed.destroy_process_group() ends it"
        raise RequestError(
            Problem("trainer.devices", "1 in a process that has joined others", world, hint)
        )
    device: torch.device = trainer.strategy.root_device
    if device.type == "cpu" and world > cores():
        log.warning("%d processes share %d CPU cores", world, cores())
    threads = torch.get_num_threads()
    log.info("%d processes, each with %d thread%s", world, threads, "s" if threads > 1 else "")
    store = open_store(world)
    followers = Followers(
        world,
        {
            "config": OmegaConf.to_yaml(checked.config, resolve=False),
            "record": str(assembly.loop.record.path),
            "checkpoint": str(checkpoint) if checkpoint else None,
            "step": step,
            "content": data.fingerprint(),
            "port": store.port,
        },
    )
    done = False
    try:
        followers.wait_until_ready(lambda: assembly.loop.signals.requested)
        join(store, rank=0, world=world, device=device)
        trainer.callbacks.insert(0, _Watch(followers))
        yield
        done = True
    except Exception as error:
        explained = followers.explain(error)
        if explained is error:
            raise
        raise explained from error
    finally:
        try:
            followers.end(patient=done)
        finally:
            leave(broken=not done)


class Followers:
    """The processes of the ranks from 1 on.

    Args:
        world: processes of the run, this one included.
        told: what each must know of the run; see `rank.Told`.
    """

    def __init__(self, world: int, told: dict[str, Any]) -> None:
        request = {
            **told,
            "world": world,
            "threads": torch.get_num_threads(),
            "parent": os.getpid(),
            "path": sys.path,
        }
        self._ending = False
        self._failures: list[RankFailed] = []
        self._all: list[_Follower] = []
        try:
            for rank in range(1, world):
                self._all.append(_Follower({**request, "rank": rank}, self._has_ended))
        except BaseException:
            self.end(patient=False)
            raise

    def wait_until_ready(self, requested: Callable[[], int | None]) -> None:
        """Returns when every rank has built what it trains with.

        Args:
            requested: the signal that asks for a stop, None so far.
        """
        while not all(follower.ready for follower in self._all):
            if (signum := requested()) is not None:
                raise Interrupted(signum)
            self.check()
            time.sleep(0.02)

    def check(self) -> None:
        """Raises `RankFailed` if a rank has failed."""
        if self._failures:
            raise self._failures[0]

    def explain(self, error: Exception) -> Exception:
        """The failure of another rank that led to `error` in this one, or else `error`."""
        if not isinstance(error, RankFailed) and not lost_connection(error):
            return error
        until = time.monotonic() + _TO_EXPLAIN
        while time.monotonic() < until:
            first = [failure for failure in self._failures if not lost_connection(failure)]
            if first:
                return first[0]
            time.sleep(0.02)
        return self._failures[0] if self._failures else error

    def end(self, *, patient: bool) -> None:
        """Returns when no rank is left.

        Args:
            patient: they are about to end by themselves.
        """
        self._ending = True
        try:
            if patient:
                until = time.monotonic() + _TO_FINISH
                while any(f.running and not f.done for f in self._all) and time.monotonic() < until:
                    time.sleep(0.02)
            for follower in self._all:
                follower.close()
            for follower in self._all:
                follower.wait(_TO_END)
        finally:
            for follower in self._all:
                follower.kill()

    def _has_ended(self, follower: _Follower) -> None:
        if self._ending or follower.done:
            return
        self._failures.append(follower.failure())
        abort()


class _Follower:
    """One process, with threads that read what it says and wait for its end."""

    def __init__(self, request: dict[str, Any], ended: Callable[[_Follower], None]) -> None:
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
        with suppress(BrokenPipeError):  # its end is noticed by the one who waits for it
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def failure(self) -> RankFailed:
        """How it ended, before it was done."""
        if self._failed:
            return RankFailed(self.rank, self._failed["error"], self._failed["out_of_memory"])
        code = self._process.returncode
        if code < 0:
            return RankFailed(self.rank, f"killed by {signal.Signals(-code).name}")
        if code == 1 and self._last_line:  # of a traceback, from before it could report
            return RankFailed(self.rank, self._last_line)
        return RankFailed(self.rank, f"ended with exit code {code}")

    def close(self) -> None:
        """Closes its input, at which it ends."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Waits for its end, and for the last of its log."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        for thread in self._readers:
            thread.join(1.0)  # a process that it started may hold the other end

    def kill(self) -> None:
        """Ends it if it is there."""
        if self.running:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if said["is"] == "ready":
                self.ready = True
            elif said["is"] == "done":
                self.done = True
            else:
                self._failed = said

    def _log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            log.debug("rank %d: %s", self.rank, line.rstrip())
            self._last_line = line.strip() or self._last_line

    def _wait(self, ended: Callable[[_Follower], None]) -> None:
        self._process.wait()
        for thread in self._readers:
            thread.join(1.0)
        ended(self)


class _Watch(pl.Callback):
    """Ends the run at the step after another rank failed, where its data may not be waited for."""

    def __init__(self, followers: Followers) -> None:
        self._followers = followers

    def on_train_batch_end(self, *_: Any) -> None:
        self._followers.check()


def lost_connection(error: Exception) -> bool:
    """Whether `error` is what the end of another rank looks like."""
    said = str(error)
    return isinstance(error, RuntimeError | EtudeError) and any(
        word in said for word in ("gloo", "NCCL", "Connection", "TCPStore")
    )
