"""Signals to a process whose main thread computes in C, where no handler of Python runs."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from etude.records.record import Record
from etude.stopping import descendants

FILE = Path(__file__).parent / "stuck.py"
LONG = 120  # seconds in which what should end within two has to, on the busiest machine

LOOP, RUN = "etude.training.loop", "etude.training.run"
BEFORE = {
    "imports": ("etude.api:train_record", 1),
    "data": ("etude.data.text:write_text", 1),
    "tokenizer": ("etude.data.tokenizer:Char.train", 1),
    "build": (f"{RUN}:build_model", 1),
    "first step": ("etude.tasks.causal_lm:CausalLM.training_step", 1),
}
"""Calls before the first step, in which the first signal ends the process."""
WITHIN = {
    "step": ("etude.tasks.causal_lm:CausalLM.training_step", 12),
    "validation": (f"{LOOP}:_validate", 2),
    "checkpoint": ("etude.records.manifest:sha256_file", 3),  # its weights are written
}
"""Calls after the first step, in which the second signal ends the process."""
AFTER = {"epilogue": (f"{RUN}:_run_epilogue", 1)}


class Stuck:
    """A process and its output."""

    def __init__(self, point: str, call: int, words: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(FILE), point, str(call), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.err: queue.Queue[str] = queue.Queue()
        self.said: list[str] = []
        assert self.process.stderr is not None
        threading.Thread(target=self._listen, args=[self.process.stderr], daemon=True).start()

    def _listen(self, stream: Any) -> None:
        for line in stream:
            self.err.put(line)

    def wait_until_stuck(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == "stuck\n":
                return
        raise AssertionError("".join(self.err.queue))

    def send(self, signum: int, acknowledged: str) -> None:
        """Sends a signal and waits for the line that acknowledges it."""
        os.kill(self.process.pid, signum)
        name = signal.Signals(signum).name
        while True:
            self.said.append(self.err.get(timeout=LONG))
            if self.said[-1] == f"{name}: {acknowledged}\n":
                return

    def ended(self) -> int:
        return self.process.wait(LONG)


@pytest.fixture
def stuck() -> Iterator[Callable[..., Stuck]]:
    begun: list[Stuck] = []

    def begin(point: str, call: int, words: list[str]) -> Stuck:
        begun.append(Stuck(point, call, words))
        begun[-1].wait_until_stuck()
        return begun[-1]

    yield begin
    for each in begun:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


AT_ONCE = "stopping at once"
SAVES = "saving after this step, then stopping (send it again to stop at once)"
JOBS = "the jobs save their state and stop; to resume, run the same command"
SIGNALS = pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])


def records(root: Path) -> list[Record]:
    return [Record.read(path.parent) for path in root.rglob("run.json")]


def check_before(stuck: Any, words: Any, root: Path, point: str, signum: int) -> None:
    where, call = BEFORE[point]
    cache = f"run.cache={root.parent / 'cache'}"  # where no other test has prepared the data
    process = stuck(where, call, ["train", *words(root, cache)])
    process.send(signum, AT_ONCE)
    assert process.ended() == 128 + signum
    assert all(record.info["status"] == "interrupted" for record in records(root))
    assert bool(records(root)) == (point == "first step")
    assert root.exists() == (point == "first step")  # no empty folder either


@pytest.mark.slow
def test_in_a_step(stuck: Any, words: Any, tmp_path: Path) -> None:
    check_within(stuck, words, tmp_path / "runs", "step", signal.SIGINT)


@pytest.mark.slow
@SIGNALS
@pytest.mark.parametrize("point", BEFORE)
def test_before_the_first_step(
    stuck: Any, words: Any, tmp_path: Path, point: str, signum: int
) -> None:
    check_before(stuck, words, tmp_path / "runs", point, signum)


def check_within(stuck: Any, words: Any, root: Path, point: str, signum: int) -> None:
    where, call = WITHIN[point]
    process = stuck(where, call, ["train", *words(root)])
    process.send(signum, SAVES)
    assert process.process.poll() is None
    process.send(signum, AT_ONCE)
    assert process.ended() == 128 + signum
    (record,) = records(root)
    assert record.info["status"] == "interrupted"
    from etude.training.checkpoints import verify_checkpoint

    for _, folder in record.checkpoints():  # what was half written does not count
        verify_checkpoint(folder)


@pytest.mark.slow
@SIGNALS
@pytest.mark.parametrize("point", WITHIN)
def test_within_training(
    stuck: Any, words: Any, whole_of: Any, tmp_path: Path, point: str, signum: int
) -> None:
    """The same command then continues to the same result."""
    from comparing import assert_same

    from etude.config.compose import compose
    from etude.training.run import train

    root = tmp_path / "runs"
    check_within(stuck, words, root, point, signum)
    assert_same(train(compose(words(root))).record, whole_of)


@pytest.fixture(scope="module")
def whole_of(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Record:
    from etude.training.run import train

    return train(small(tmp_path_factory.mktemp("whole"))).record


@pytest.mark.slow
@SIGNALS
def test_after_training(stuck: Any, words: Any, tmp_path: Path, signum: int) -> None:
    where, call = AFTER["epilogue"]
    process = stuck(where, call, ["train", *words(tmp_path / "runs")])
    process.send(signum, AT_ONCE)
    assert process.ended() == 128 + signum
    (record,) = records(tmp_path / "runs")
    assert record.info["status"] == "interrupted"


@pytest.mark.slow
@SIGNALS
@pytest.mark.parametrize(
    ("point", "command"),
    [
        ("etude.models.text_generator:TextGenerator.generate", ["generate"]),
        ("etude.tasks.causal_lm:CausalLM.evaluate", ["evaluate"]),
    ],
)
def test_other_commands(
    stuck: Any, whole_of: Record, point: str, command: list[str], signum: int
) -> None:
    process = stuck(point, 1, [*command, str(whole_of.path)])
    process.send(signum, AT_ONCE)
    assert process.ended() == 128 + signum


@pytest.mark.slow
@SIGNALS
def test_a_sweep_with_stuck_jobs(stuck: Any, words: Any, tmp_path: Path, signum: int) -> None:
    where, call = WITHIN["step"]
    root = tmp_path / "runs"
    sweep = ["train", *words(root), "seed=0,1", "hydra.launcher.n_jobs=2", "-m"]
    process = Stuck(where, call, sweep)
    try:
        logs = _until_stuck(root, jobs=2)
        process.send(signum, f"{JOBS} (send it again to stop at once)")
        begun = descendants(process.process.pid)
        process.send(signum, AT_ONCE)
        assert process.ended() == 128 + signum
        for pid in begun:
            _until_gone(pid)
        assert {record.status for record in records(root)} == {"interrupted"}
        assert len(logs) == 2
    finally:
        if process.process.poll() is None:
            process.process.kill()


def _until_gone(pid: int) -> None:
    """Waits until the process is gone: a killed process needs time to release its memory."""
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} outlives the sweep")


def _until_stuck(root: Path, *, jobs: int) -> list[Path]:
    """Waits for jobs that are stuck and returns their logs."""
    for _ in range(10 * LONG):
        logs = [p for p in root.glob("_sweeps/*/logs/*.txt") if "stuck\n" in p.read_text()]
        if len(logs) == jobs:
            return logs
        time.sleep(0.1)
    raise AssertionError("the jobs never came to the point")
