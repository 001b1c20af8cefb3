"""Tests that one process holds a run, and none after that process exits."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from etude.errors import RunHeld
from etude.records.lock import RunLock, is_held, read_holder

SPAWN = multiprocessing.get_context("spawn")


def hold(folder: str, held: Any, leave: Any) -> None:
    lock = RunLock(Path(folder))
    lock.acquire()
    held.set()
    leave.wait(60)
    lock.release()


@pytest.fixture
def holder_process(tmp_path: Path) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Returns a process that holds the lock of `tmp_path`, and the means to release it."""
    held, leave = SPAWN.Event(), SPAWN.Event()
    process = SPAWN.Process(target=hold, args=(str(tmp_path), held, leave), daemon=True)
    process.start()
    assert held.wait(30)
    yield process, leave.set
    process.kill()
    process.join(30)


def test_another_process_is_kept_out_and_told_by_whom(tmp_path: Path, holder_process) -> None:
    process, _ = holder_process
    assert is_held(tmp_path)
    with pytest.raises(RunHeld, match=rf"process {process.pid} on \S+ since \d{{4}}-"):
        RunLock(tmp_path).acquire()
    assert read_holder(tmp_path / ".lock")["pid"] == process.pid


def test_a_killed_holder_holds_nothing(tmp_path: Path, holder_process) -> None:
    process, _ = holder_process
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert not is_held(tmp_path)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert read_holder(tmp_path / ".lock")["pid"] == os.getpid()
    lock.release()


def test_a_child_of_the_holder_does_not_hold_the_lock(tmp_path: Path) -> None:
    """Workers of a data loader outlive a killed process by seconds."""
    reading, writing = os.pipe()
    holder = os.fork()
    if holder == 0:
        lock = RunLock(tmp_path)
        lock.acquire()
        worker = os.fork()
        if worker == 0:
            time.sleep(60)
            os._exit(0)
        os.write(writing, str(worker).encode())
        time.sleep(60)
        os._exit(0)
    worker = int(os.read(reading, 100))
    try:
        assert is_held(tmp_path)
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        os.kill(worker, 0)  # it still runs
        assert not is_held(tmp_path)
        RunLock(tmp_path).acquire()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(reading)
        os.close(writing)


def test_a_release_also_frees_a_lock_that_a_child_has_just_inherited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunLock, "close", lambda lock: None)  # as before the child has closed it
    lock = RunLock(tmp_path)
    lock.acquire()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        lock.release()
        assert not is_held(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_waiting_ends_when_the_holder_lets_go(tmp_path: Path, holder_process) -> None:
    _, let_go = holder_process
    threading.Timer(0.4, let_go).start()
    began = time.monotonic()
    lock = RunLock(tmp_path)
    lock.acquire(wait=True)
    assert time.monotonic() - began > 0.3
    assert is_held(tmp_path)
    lock.release()


def test_release_frees_and_may_be_repeated(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    assert is_held(tmp_path)
    lock.release()
    lock.release()
    assert not is_held(tmp_path)
    RunLock(tmp_path).acquire()


def test_asking_creates_nothing(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_holder_that_has_said_nothing_yet(tmp_path: Path, content: str) -> None:
    (tmp_path / ".lock").write_text(content)
    assert read_holder(tmp_path / ".lock") == {}


def test_a_holder_on_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks may not be shared between hosts, and the process cannot be checked from here."""
    import socket

    lock = RunLock(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        lock.acquire()
        assert lock._file is not None
        lock._file.close()  # the process died on the other host, or the disk does not share locks
    assert is_held(tmp_path)
    with pytest.raises(RunHeld, match="on elsewhere since") as held:
        RunLock(tmp_path).acquire()
    assert "run.force=true" in held.value.hint
    mine = RunLock(tmp_path)
    mine.acquire(force=True)
    assert read_holder(tmp_path / ".lock")["host"] == socket.gethostname()
    mine.release()
    assert read_holder(tmp_path / ".lock") == {}
    with monkeypatch.context() as patch:  # a released lock is free on every host
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        RunLock(tmp_path).acquire()
