"""Of eight simultaneous requests for the same run, one trains it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import apart
import pytest

from etude.records.record import Record


@pytest.mark.slow
def test_one_trains_and_the_others_are_told_by_whom(words: Callable, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    outputs = [tmp_path / f"{number}.txt" for number in range(8)]
    processes = [apart.start(words(root), output, "slow", 100) for output in outputs]
    codes = [apart.finish(process) for process in processes]
    assert sorted(codes) == [0] + [3] * 7
    winner = processes[codes.index(0)]
    for code, output in zip(codes, outputs, strict=True):
        if code == 3:
            assert f"process {winner.pid} on {os.uname().nodename}" in output.read_text()
    (folder,) = (root / "tiny").iterdir()
    assert len(Record.read(folder).info["starts"]) == 1


@pytest.mark.slow
def test_with_patience_all_come_to_it(words: Callable, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    outputs = [tmp_path / f"{number}.txt" for number in range(8)]
    typed = [*words(root), "run.wait=true"]
    processes = [apart.start(typed, output, "slow", 20) for output in outputs]
    assert [apart.finish(process) for process in processes] == [0] * 8
    reused = ["already finished" in output.read_text() for output in outputs]
    assert sum(reused) == 7
    (folder,) = (root / "tiny").iterdir()
    record = Record.read(folder)
    assert (len(record.info["starts"]), record.status) == (1, "finished")
