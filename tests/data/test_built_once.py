from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from etude.data.cache import build_once
from etude.errors import RequestError

# Builds one folder, slowly, and notes the build in a log that all processes share.
BUILDER = """
import sys, time
from pathlib import Path
from etude.data.cache import build_once

cache, log, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def build(folder):
    with log.open("a") as file:
        file.write("built\\n")
    (folder / "first").write_text("1")
    print("halfway", flush=True)
    time.sleep(seconds)
    (folder / "second").write_text("2")

build_once(cache, "key", build)
print("done", flush=True)
"""


def builder(cache: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", BUILDER, str(cache), str(log), str(seconds)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(folder: Path) -> None:
    (folder / "file").write_text("whole")


def test_a_folder_is_built_once_and_then_found(tmp_path: Path) -> None:
    builds = []

    def build(folder: Path) -> None:
        builds.append(folder)
        write(folder)

    first = build_once(tmp_path / "a" / "b", "key", build)
    second = build_once(tmp_path / "a" / "b", "key", build)
    assert first == second == tmp_path / "a" / "b" / "key"
    assert (first / "file").read_text() == "whole"
    assert len(builds) == 1


def test_nothing_stands_under_the_final_name_while_it_is_built(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        assert not (tmp_path / "key").exists()
        assert folder.parent == tmp_path  # a rename within one file system is atomic
        write(folder)

    build_once(tmp_path, "key", build)
    assert names(tmp_path) == ["key", "key.lock"]


def test_processes_that_come_at_once_build_once(tmp_path: Path) -> None:
    processes = [builder(tmp_path / "cache", tmp_path / "log", 0.3) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert (tmp_path / "log").read_text() == "built\n"
    assert sum("halfway" in output for output in outputs) == 1
    assert names(tmp_path / "cache" / "key") == ["first", "second"]


def test_a_killed_builder_leaves_nothing_that_counts(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    process = builder(cache, tmp_path / "log", 60)
    assert process.stdout is not None
    assert process.stdout.readline() == "halfway\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert names(cache) == ["key.lock", "key.partial"]
    build_once(cache, "key", write)
    assert names(cache) == ["key", "key.lock"]
    assert names(cache / "key") == ["file"]


def test_what_killed_builders_of_other_folders_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "dead.partial").mkdir()
    (tmp_path / "alive.partial").mkdir()
    with (tmp_path / "alive.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_once(tmp_path, "key", write)
    assert not (tmp_path / "dead.partial").exists()
    assert (tmp_path / "alive.partial").exists()


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_a_failed_build_cleans_up_and_is_tried_again(tmp_path: Path, error: BaseException) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise error

    with pytest.raises(type(error)):
        build_once(tmp_path, "key", fail)
    assert names(tmp_path) == ["key.lock"]
    assert build_once(tmp_path, "key", write).is_dir()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_and_cleaned_up(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        write(folder)
        Path("/dev/full").write_bytes(b"x")

    with pytest.raises(RequestError, match="free disk space") as caught:
        build_once(tmp_path, "key", fill)
    assert caught.value.problems[0].value == str(tmp_path)
    assert names(tmp_path) == ["key.lock"]


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RequestError, match=r"^run\.cache = .*: expected a writable folder"):
        build_once(tmp_path / "file" / "cache", "key", write)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_serves_what_it_has(tmp_path: Path) -> None:
    folder = build_once(tmp_path, "key", write)
    tmp_path.chmod(0o500)
    try:
        assert build_once(tmp_path, "key", write) == folder
        with pytest.raises(RequestError, match="a writable folder"):
            build_once(tmp_path, "other", write)
    finally:
        tmp_path.chmod(0o700)


def test_an_error_of_the_source_is_not_blamed_on_the_cache(tmp_path: Path) -> None:
    def missing(folder: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file", "/somewhere/else.txt")

    with pytest.raises(FileNotFoundError):
        build_once(tmp_path / "cache", "key", missing)
