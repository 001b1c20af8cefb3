"""Tests that file systems that are read-only, or lack locks or fsync, are reported by name."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.errors import RequestError, RunHeld
from etude.records import storage
from etude.records.files import atomic_folder, write_json
from etude.records.lock import RunLock, is_held
from etude.records.storage import check_new, check_root

CODES = [errno.EINVAL, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS]


def lacking(monkeypatch: pytest.MonkeyPatch, what: str, code: int) -> None:
    """Makes the file system lack `locks`, or `fsync` of `folders` or `files`."""
    fsync = os.fsync

    def flocked(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    def flushed(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == (what == "folders"):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    if what == "locks":
        monkeypatch.setattr(fcntl, "flock", flocked)
    else:
        monkeypatch.setattr(os, "fsync", flushed)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(
    ("what", "lost"),
    [
        ("locks", "locks (flock), which prevent two processes from training the same run"),
        ("files", "fsync of files, without which the last writes may be lost"),
        ("folders", "fsync of folders, without which the last checkpoint may be lost"),
    ],
)
def test_a_file_system_that_lacks_something(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    what: str,
    lost: str,
    code: int,
) -> None:
    lacking(monkeypatch, what, code)
    with pytest.raises(RequestError) as caught:
        check_root(tmp_path / "runs" / "name")
    (problem,) = caught.value.problems
    assert (problem.where, problem.value) == ("run.root", str(tmp_path))
    assert lost in problem.expected
    assert "run.unsafe_storage=true" in str(problem.hint)
    check_root(tmp_path / "runs" / "name", unsafe=True)
    assert lost in caplog.text
    assert not list(tmp_path.iterdir())


def test_another_error_is_no_lack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lacking(monkeypatch, "folders", errno.EIO)
    with pytest.raises(RequestError, match="expected a writable folder"):
        check_root(tmp_path, unsafe=True)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_json(tmp_path / "a.json", 1)


def test_a_folder_that_is_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.mkstemp", full)  # such as the inode table
    with pytest.raises(RequestError, match="expected free disk space"):
        check_root(tmp_path)


def test_what_can_be_done_is_done(tmp_path: Path) -> None:
    check_root(tmp_path / "runs")
    assert not list(tmp_path.iterdir())


def test_runs_of_a_root_that_cannot_be_written_may_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "old" / "0123456789ab").mkdir(parents=True)
    (tmp_path / "old" / "0123456789ab" / "run.json").write_text("{}")
    monkeypatch.setattr(storage.os, "access", lambda path, mode: not mode & os.W_OK)
    check_new(tmp_path, "old", unsafe=False)
    with pytest.raises(RequestError, match="a writable folder"):
        check_new(tmp_path, "new", unsafe=False)


def test_files_are_written_without_flushed_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lacking(monkeypatch, "folders", errno.EINVAL)
    write_json(tmp_path / "a.json", {"b": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1}
    with atomic_folder(tmp_path / "step") as folder:
        (folder / "weights").write_bytes(b"1")
    assert (tmp_path / "step" / "weights").read_bytes() == b"1"


def test_without_locks_a_living_process_holds_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lacking(monkeypatch, "locks", errno.ENOLCK)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert is_held(tmp_path)
    with pytest.raises(RunHeld, match=f"process {os.getpid()} on {socket.gethostname()}"):
        RunLock(tmp_path).acquire(patience=0)
    lock.release()
    assert not is_held(tmp_path)
    dead = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
    text = json.dumps({"host": socket.gethostname(), "pid": int(dead.stdout), "since": "then"})
    (tmp_path / ".lock").write_text(text)
    assert not is_held(tmp_path)
    lock.acquire()
    lock.release()


def test_a_run_without_locks_and_flushed_folders(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    corpus: Path,
    tiny: Callable[..., list[str]],
    etude: Callable[..., Any],
) -> None:
    lacking(monkeypatch, "locks", errno.ENOLCK)
    lacking(monkeypatch, "folders", errno.EINVAL)
    words = tiny(corpus, tmp_path / "runs", "run.samples=0")
    refused = etude("train", *words)
    assert refused.code == 2
    assert f"run.root = '{tmp_path}': expected a file system with locks" in refused.err
    assert "fsync of folders" in refused.err
    assert not (tmp_path / "runs").exists()
    unsafe = etude("train", *words, "run.unsafe_storage=true")
    assert unsafe.code == 0, unsafe.err
    assert "run.unsafe_storage" in unsafe.out
    again = etude("train", *words, "run.unsafe_storage=true")  # the same run: it is out of the name
    assert "already finished" in again.out
    assert len(list((tmp_path / "runs" / "tiny").iterdir())) == 1


COMMANDS: list[Any] = [
    ["train", "experiment=debug"],
    ["train", "experiment=debug", "seed=0,1", "-m"],
    ["find-lr", "experiment=debug"],
    ["reproduce", "sort"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=["train", "sweep", "find-lr", "reproduce"])
def test_the_command_refuses_before_torch(words: list[str], tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.write_text("a file")
    given = [f"--root={root}"] if words[0] == "reproduce" else [f"run.root={root}"]
    code = (
        "import sys; from etude import cli\n"
        f"code = cli.run({[*words, *given]!r})\n"
        "print('torch' in sys.modules, code)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.split()[-2:] == ["False", "2"], answer.stdout + answer.stderr
    assert f"run.root = '{root}': expected a folder" in answer.stderr
