"""A sweep's record on a full disk, or on one without free inodes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sweep_processes import results, sweep_of

from etude.records.record import Record
from etude.sweeps.sweep_record import SweepRecord


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A separate file system with the size and the number of inodes that a test sets."""
    if sys.platform != "linux":
        pytest.skip("no tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill_bytes(folder: Path) -> None:
    """Fills the disk."""
    with open(folder / "filler", "ab", buffering=0) as file:
        for size in (2**16, 2**10, 1):
            with suppress(OSError):  # the disk is full
                while file.write(bytes(size)):
                    pass
    assert shutil.disk_usage(folder).free == 0


def fill_inodes(folder: Path) -> None:
    """Uses all inodes."""
    (folder / "filler").mkdir()
    with suppress(OSError):  # no inode is left
        for number in range(100_000):
            (folder / "filler" / f"{number}").touch()
    assert os.statvfs(folder).f_ffree == 0


def empty(folder: Path) -> None:
    filler = folder / "filler"
    if filler.is_dir():
        for file in filler.iterdir():
            file.unlink()
        filler.rmdir()
    else:
        filler.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("disk", "fill"),
    [("size=80m,nr_inodes=10k", fill_bytes), ("size=80m,nr_inodes=500", fill_inodes)],
    indirect=["disk"],
    ids=["blocks", "inodes"],
)
def test_a_full_disk_while_a_sweeps_record_is_written(
    etude: Callable,
    corpus: Path,
    tiny: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    disk: Path,
    fill: Callable[[Path], None],
) -> None:
    """The sweep's record and the runs' records are preserved; the same command resumes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole, root = tmp_path / "whole", disk / "runs"

    def words(root: Path) -> list[str]:
        return ["train", "-m", *tiny(corpus, root, "run.samples=0"), "seed=0,1,2"]

    assert etude(*words(whole)).code == 0
    note, calls = SweepRecord.note, 0

    def noted(self: SweepRecord, *jobs: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            fill(disk)
        note(self, *jobs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(SweepRecord, "note", noted)
        answer = etude(*words(root))
    print(answer.out, answer.err)
    assert calls >= 2
    assert answer.code == 1
    assert "No space left on device" in answer.out + answer.err
    assert "sweep.json" in answer.out + answer.err
    for said in ("Traceback", "unexpected"):
        assert said not in answer.out + answer.err
    there = sweep_of(root)
    assert json.loads((there["folder"] / "sweep.json").read_text())  # unchanged
    assert "finished" in [job["status"] for job in there["jobs"]]
    for folder in (root / "tiny").iterdir():
        assert Record.read(folder).status in ("finished", "failed", "interrupted")
    assert not list(root.rglob(".*.tmp-*"))
    empty(disk)
    answer = etude(*words(root))
    assert answer.code == 0, answer.out + answer.err
    assert results(root) == results(whole)
    assert [job["status"] for job in sweep_of(root)["jobs"]] == ["finished"] * 3
