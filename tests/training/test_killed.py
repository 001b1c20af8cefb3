"""kill -9 at any time: no partial files stay, no step is trained or recorded twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import apart
import pytest
from comparing import assert_same, rows

from etude.records.record import Record
from etude.training.run import train


@pytest.fixture(scope="module")
def whole(small: Callable, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return train(small(tmp_path_factory.mktemp("whole"))).record


@pytest.mark.parametrize(
    ("plant", "call", "saved"),
    [
        ("killed_in_a_step", 18, 15),
        ("killed_in_validation", 5, 20),  # the first batch at step 21
        ("killed_in_validation", 11, 35),  # the last validation
        ("killed_in_a_save", 3, 7),  # of step 10
        ("killed_in_a_save", 1, None),
        ("killed_after_a_save", 4, 10),  # saves at 5, 7, 10
        ("killed_in_a_row", 4, 10),  # rows at 4, 7, 8, 12
    ],
)
def test_killed_and_started_again(
    small: Callable,
    words: Callable,
    whole: Record,
    tmp_path: Path,
    plant: str,
    call: int,
    saved: int | None,
) -> None:
    root, output = tmp_path / "runs", tmp_path / "output.txt"
    assert apart.finish(apart.start(words(root), output, plant, call)) == -signal.SIGKILL
    killed = Record.read(root / "tiny" / whole.path.name)
    assert killed.info["status"] == "running"  # nobody was left to change it
    assert killed.status == "interrupted"
    assert [step for step, _ in killed.checkpoints()][-1:] == ([saved] if saved else [])
    record = train(small(root)).record
    assert [start["step"] for start in record.info["starts"]] == [0, saved or 0]
    assert_same(record, whole)


def test_terminated_from_outside_then_killed(
    small: Callable, words: Callable, whole: Record, tmp_path: Path
) -> None:
    root, output = tmp_path / "runs", tmp_path / "output.txt"
    folder = root / "tiny" / whole.path.name

    def has(step: int) -> Callable[[], bool]:
        return lambda: any(row["step"] >= step for row in Record(folder).rows())

    first = apart.start(words(root), output, "slow", 10)
    apart.wait_for(has(4), first)
    os.kill(first.pid, signal.SIGTERM)
    assert apart.finish(first) == 128 + signal.SIGTERM
    stopped = Record.read(folder)
    assert stopped.info["status"] == "interrupted"
    step = stopped.info["step"]
    assert 4 <= step < 40
    assert stopped.checkpoints()[-1][0] == step
    assert rows(stopped)[-1]["step"] <= step
    assert "SIGTERM: saving after this step" in output.read_text()

    second = apart.start(words(root), output, "slow", 10)
    apart.wait_for(has(step + 8), second)
    second.kill()
    assert apart.finish(second) == -signal.SIGKILL
    assert_same(train(small(root)).record, whole)


def test_one_process_a_run(small: Callable, words: Callable, whole: Record, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    folder = root / "tiny" / whole.path.name
    outputs = [tmp_path / f"{name}.txt" for name in ("first", "second", "third")]
    first = apart.start(words(root), outputs[0], "slow", 50)
    apart.wait_for(lambda: (folder / "run.json").exists(), first)
    second = apart.start(words(root), outputs[1])
    third = apart.start([*words(root), "run.wait=true"], outputs[2])
    assert apart.finish(second) == 3
    told = outputs[1].read_text()
    assert f"process {first.pid} on {os.uname().nodename}" in told
    assert "run.wait=true" in told
    assert first.is_alive()
    assert apart.finish(first) == 0
    assert apart.finish(third) == 0
    assert "already finished" in outputs[2].read_text()
    record = Record.read(folder)
    assert len(record.info["starts"]) == 1
    assert_same(record, whole)
