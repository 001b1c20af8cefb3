"""Full disks, read-only roots, and kills at system calls.

Tests that need a small file system, another user or `strace` are skipped if these are not
available.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from comparing import assert_same

from etude.analysis.verify import verify
from etude.records.record import Record
from etude.training import run_folder
from etude.training.run import train

Words = Callable[..., list[str]]


@pytest.fixture(scope="module")
def whole(small: Callable, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return train(small(tmp_path_factory.mktemp("whole"))).record


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 400 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if sys.platform != "linux":
        pytest.skip("no tmpfs")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("only a superuser may mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit(
    words: Words,
    etude: Callable,
    whole: Record,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a full disk, existing checkpoints stay valid; the run continues when there is space."""
    # both checks would fail before training
    monkeypatch.setattr("etude.records.storage.MIN_FREE_BYTES", 0)
    monkeypatch.setattr("etude.training.run.room_for_checkpoints", lambda *_: None)
    command = ["train", *words(small_disk / "runs")]
    assert etude(*command, "run.stop_at_step=5").code == 0
    record = Record.read(small_disk / "runs" / "tiny" / whole.path.name)
    filler = small_disk / "filler"
    room = shutil.disk_usage(small_disk).free - 28_000  # a checkpoint takes some 36 kB
    filler.write_bytes(bytes(room))
    answer = etude(*command)
    assert answer.code == 1, answer.out + answer.err
    told = r"the checkpoint of step 7 needs 0\.\d MiB, but \S+ has 0\.\d MiB free; the previous"
    assert re.search(told, answer.err), answer.err
    assert "Traceback" not in answer.err
    record = Record.read(record.path)
    # with no room for a few lines either, that is told
    assert record.status == "failed" or "run.json could not be updated" in answer.err
    assert [step for step, _ in record.checkpoints()] == [5]
    assert not list(record.path.rglob(".*tmp*"))
    filler.unlink()
    assert etude(*command).code == 0
    assert_same(Record.read(record.path), whole)


def test_rows_that_do_not_fit(
    words: Words, etude: Callable, whole: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Linux's full device replaces the metrics file."""
    from etude.records import metrics_file

    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    appended, calls = metrics_file.open_for_append, 0

    def on_a_full_device(path: Path, kind: Any) -> Any:
        nonlocal calls
        calls += 1
        return open("/dev/full", "ab") if calls == 4 else appended(path, kind)

    command = ["train", *words(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(metrics_file, "open_for_append", on_a_full_device)
        answer = etude(*command)
    assert answer.code == 1
    assert "No space left on device" in answer.err
    assert "metrics.jsonl" in answer.err
    record = Record.read(tmp_path / "tiny" / whole.path.name)
    assert record.status == "failed"
    assert etude(*command).code == 0
    assert_same(Record.read(record.path), whole)


def test_two_checkpoints_must_fit_before_training(
    words: Words, etude: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("etude.records.storage.MIN_FREE_BYTES", 0)
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: usage._replace(free=5000))
    answer = etude("train", *words(tmp_path / "runs"))
    assert answer.code == 2
    assert "MiB free for two checkpoints" in answer.err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
def test_a_read_only_root_where_permission_bits_count(words: Words, tmp_path: Path) -> None:
    """Drops the superuser's permission to write everywhere."""
    root = tmp_path / "runs"
    root.mkdir(mode=0o555)
    without = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
    command = [*(without if os.geteuid() == 0 else []), sys.executable, "-m", "etude", "train"]
    words_ = [*words(root), f"run.cache={tmp_path / 'cache'}"]
    done = subprocess.run([*command, *words_], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"run.root = '{root}': expected a writable folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(root.iterdir())
    assert not (tmp_path / "cache").exists()  # no data was prepared


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_killed_at_each_system_call_that_counts(
    words: Words, whole: Record, small: Callable, tmp_path: Path, call: str
) -> None:
    """SIGKILL before the n-th fsync or rename, for every third n up to the second checkpoint."""
    calls = {"fsync": "fsync", "rename": "rename,renameat,renameat2"}[call]
    seen = set()
    for count in range(1, 40, 3):  # all of them take a quarter of an hour
        root = tmp_path / f"{count}"
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}"]
        command += ["-e", f"inject={calls}:signal=KILL:when={count}"]
        command += [sys.executable, "-m", "etude", "train", *words(root)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True)
        folder = root / "tiny" / whole.path.name
        steps = []
        if (folder / "run.json").exists():
            record = Record.read(folder)
            steps = [step for step, _ in record.checkpoints()]
            for _, checkpoint in record.checkpoints():
                assert verify(folder).faults == [], checkpoint
        seen.add(tuple(steps))
        assert_same(train(small(root)).record, whole)
        assert not list(root.rglob(".*tmp-*"))
        if done.returncode != -signal.SIGKILL and done.returncode != 137:
            break  # it came to its end before that call
        if steps and max(steps) >= 7:
            break
    assert {(), (5,)} <= seen


@pytest.mark.slow
def test_thirty_kills_with_temporary_files_elsewhere(
    small: Callable, words: Words, whole: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills at random times, with dropout and accumulation; TMPDIR is on another file system."""
    import random
    import time

    import apart

    elsewhere = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path
    temporary = elsewhere / f"etude-test-{os.getpid()}"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    draw = random.Random(0)
    root = tmp_path / "runs"
    folder = root / "tiny" / whole.path.name
    kills, reached, longest = 0, 0, 1.0
    try:
        while kills < 30:
            process = apart.start(words(root), tmp_path / "output.txt", "slow", 150)
            time.sleep(draw.uniform(0, longest))
            process.kill()
            kills += apart.finish(process) == -signal.SIGKILL
            record = Record.read(folder) if (folder / "run.json").exists() else None
            if record is not None and record.status == "finished":
                break
            saved = [0, *(step for step, _ in record.checkpoints())] if record else [0]
            # as long as it takes to get on now and then: a fast machine is killed as often
            longest = longest * 1.2 if max(saved) == reached else max(0.5, longest * 0.6)
            reached = max(saved)
        assert kills >= 10
        assert reached > 0  # it got on in between
        record = train(small(root)).record
        assert_same(record, whole)
        assert verify(folder).faults == []
        assert not list(root.rglob("*.tmp-*"))
        assert [p for p in temporary.iterdir() if "etude" in p.name] == []
        print(f"{kills} kills, {len(record.info['starts'])} starts")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
