"""Only one process at a time locks a run's folder, even if the folder is moved or deleted."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from etude.errors import RunHeld
from etude.records.lock import RunLock, is_held
from etude.training.run_folder import locked_record


def test_the_next_in_line_gets_a_folder_that_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "name" / "0123456789ab"
    entered, leave = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def next_in_line() -> None:
        try:
            with locked_record(folder, wait=True) as record:
                entered.set()
                assert leave.wait(10)
                record.update(format=1, status="running")
        except BaseException as error:
            errors.append(error)

    second = threading.Thread(target=next_in_line)
    with locked_record(folder, wait=False):
        second.start()
        assert not entered.wait(0.3)
        assert folder.exists()
    # The first recorded nothing: its folder is gone, with the lock file the second waited for.
    assert entered.wait(10)
    assert is_held(folder)
    with pytest.raises(RunHeld), locked_record(folder, wait=False):
        pass
    leave.set()
    second.join(10)
    assert not errors
    assert (folder / "run.json").exists()
    assert not is_held(folder)


def test_nothing_recorded_nothing_left(tmp_path: Path) -> None:
    with locked_record(tmp_path / "runs" / "name" / "0123456789ab", wait=False):
        assert (tmp_path / "runs").exists()
    assert not list(tmp_path.iterdir())


def test_looking_whether_it_is_held_does_not_get_in_the_way(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            is_held(tmp_path)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(300):
            lock.acquire()
            lock.release()
    finally:
        done.set()
        looker.join()


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    folder = tmp_path / "0123456789ab"
    (folder / "checkpoints" / ".step-00000005.tmp-1").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000004").mkdir()
    (folder / ".run.json.tmp-1").write_text("{")
    (folder / "metrics.jsonl").write_text("")
    with locked_record(folder, wait=False) as record:
        record.update(format=1)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert left == {
        ".lock",
        "run.json",
        "metrics.jsonl",
        "checkpoints",
        "checkpoints/step-00000004",
    }
