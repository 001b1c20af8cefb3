"""Training in a notebook's kernel: progress, and interruption by the stop button."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from jupyter_client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

pytestmark = pytest.mark.slow

LONG = '"trainer.max_steps=100000", "trainer.val_check_interval=50000"'


class Kernel:
    """A notebook's kernel, which runs cells."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager, self.client = manager, client

    def start(self, code: str) -> str:
        """Starts a cell; returns its message id."""
        return self.client.execute(code)

    def outputs(
        self, cell: str, until: Callable[[dict[str, Any]], bool] = lambda message: False
    ) -> list[dict[str, Any]]:
        """Returns the messages of a cell to its end, or to the first that `until` accepts."""
        messages: list[dict[str, Any]] = []
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != cell:
                continue
            messages.append(message)
            if until(message) or message["content"].get("execution_state") == "idle":
                return messages
        raise TimeoutError(messages)

    def run(self, code: str) -> list[dict[str, Any]]:
        """Runs a cell, and returns its messages."""
        return self.outputs(self.start(code))


def text(messages: list[dict[str, Any]]) -> str:
    """What a cell printed and displayed, as text."""
    parts = []
    for message in messages:
        content = message["content"]
        parts.append(content.get("text", "") or content.get("data", {}).get("text/plain", ""))
        parts.append("\n".join(content.get("traceback", [])))
    return "".join(parts)


def is_update(message: dict[str, Any]) -> bool:
    """Whether a message updates a widget, such as a progress bar, or a display."""
    return message["msg_type"] in ("comm_msg", "update_display_data")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    manager, client = start_new_kernel(cwd=str(tmp_path))
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_training_is_interrupted_and_continues(kernel: Kernel) -> None:
    kernel.run("import etude, signal\nbefore = signal.getsignal(signal.SIGINT)")
    cell = kernel.start(f'run = etude.train(etude.compose("experiment=debug", {LONG}))')
    kernel.outputs(cell, until=is_update)
    time.sleep(1)
    kernel.manager.interrupt_kernel()
    answer = text(kernel.outputs(cell))
    assert re.search(r"Interrupted: interrupted at step \d+ of 100,000 \(SIGINT\)\n", answer)
    assert "\n  line 1: run = etude.train(" in answer
    assert "site-packages" not in answer

    answer = text(kernel.run("print(signal.getsignal(signal.SIGINT) is before, 1 + 1)"))
    assert answer == "True 2\n"
    answer = text(kernel.run("(run,) = etude.runs()\nprint(run.status, run.checkpoints[-1])"))
    status, step = answer.split()
    assert status == "interrupted"

    stop = f"run.stop_at_step={int(step) + 5}"
    code = f'run = etude.train(etude.compose("experiment=debug", {LONG}, "{stop}"))'
    messages = kernel.run(code)
    assert "Traceback" not in text(messages)
    assert "train/loss" not in text(messages)  # only in the bar
    assert any(is_update(message) for message in messages)
    answer = text(kernel.run('print(run.status, [s["step"] for s in run.summary["starts"]])'))
    assert answer == f"paused [0, {step}]\n"


SLOW_PARTS = """
import time
from etude.tasks.causal_lm import CausalLM
time.sleep(2)
class Own(CausalLM):
    pass
"""
PRESS_WHILE_IMPORTING = """
import etude, os, signal, sys, threading
def press():
    while "slow_parts" not in sys.modules:
        pass
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press, daemon=True).start()
"""


def test_an_import_is_not_interrupted(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "slow_parts.py").write_text(SLOW_PARTS)
    own = '"extensions=[slow_parts]", "task._target_=slow_parts.Own"'
    train = f'run = etude.train(etude.compose("experiment=debug", {own}, {LONG}, MORE))'
    kernel.run(PRESS_WHILE_IMPORTING)
    answer = text(kernel.run(train.replace("MORE", '"seed=1"')))
    assert "Interrupted: interrupted" in answer
    assert "site-packages" not in answer
    assert text(kernel.run("print(sys.modules['slow_parts'].Own.__name__)")) == "Own\n"
    kernel.run(train.replace("MORE", '"seed=2", "run.stop_at_step=2"'))
    assert text(kernel.run("print(run.status)")) == "paused\n"


def test_a_sweep_shows_a_table_and_is_interrupted(kernel: Kernel) -> None:
    kernel.run("import etude")
    sweep = 'etude.sweep("experiment=debug", {"seed": range(4)}, "trainer.max_steps=STEPS")'
    messages = kernel.run("print(" + sweep.replace("STEPS", "4") + ")")
    assert "4 jobs: 4 finished" in text(messages)
    assert "Runs(4" in text(messages)
    tables = [m["content"]["data"] for m in messages if m["msg_type"] == "update_display_data"]
    assert "of 4 jobs done" in tables[0]["text/html"]
    assert tables[-1] == {"text/plain": ""}
    assert [m["msg_type"] for m in messages].count("display_data") == 1

    cell = kernel.start(sweep.replace("STEPS", "100000"))
    kernel.outputs(cell, until=lambda m: "/100000" in str(m["content"].get("data", {})))
    time.sleep(1)
    kernel.manager.interrupt_kernel()
    assert "Interrupted" in text(kernel.outputs(cell))
    answer = text(kernel.run("print(sorted(run.status for run in etude.runs()))"))
    assert "running" not in answer
    assert "interrupted" in answer
    answer = text(kernel.run("print(" + sweep.replace("STEPS", "4") + ")"))
    assert "4 jobs: 4 reused" in answer
