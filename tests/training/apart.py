"""Runs the command in a separate process that may be killed, forked from a preloaded server."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pytorch_lightning", "etude.api", "etude.training.loop", "apart"])


def start(words: list[str], output: Path, plant: str = "nothing", call: int = 0) -> BaseProcess:
    """Runs `etude train WORDS` in a separate process whose two outputs go to `output`.

    Args:
        plant: Name of the function below that patches the process.
        call: Argument of this function, such as the number of the call at which it kills.
    """
    arguments = (words, output, plant, call, os.environ["ETUDE_CACHE"])
    process = SERVER.Process(target=_run, args=arguments)
    process.start()
    return process


def finish(process: BaseProcess) -> int | None:
    """Waits and returns the exit code, or minus the number of the signal that killed it."""
    process.join(60)
    return process.exitcode


def wait_for(condition: Callable[[], bool], process: BaseProcess) -> None:
    """Waits until the condition holds; fails after a minute or if the process ends."""
    end = time.monotonic() + 60
    while not condition():
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.01)


def _run(words: list[str], output: Path, plant: str, call: int, cache: str) -> None:
    import torch

    from etude import cli

    os.environ["ETUDE_CACHE"] = cache
    # A process of this context starts its own processes (of data loaders) in the same way; from a
    # server that outlives a killed process. A user's command forks them.
    multiprocessing.set_start_method("fork", force=True)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` and shells pass on ignored signals
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    globals()[plant](call)
    with output.open("a") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.exit(cli.run(["train", *words]))


def nothing(call: int) -> None:
    pass


def slow(call: int) -> None:
    """Makes each step `call` milliseconds longer."""
    from etude.tasks.causal_lm import CausalLM

    _before(CausalLM, "training_step", lambda: time.sleep(call / 1000), every=True)


def killed_in_a_step(call: int) -> None:
    from etude.tasks.causal_lm import CausalLM

    _before(CausalLM, "training_step", _kill, call)


def killed_in_validation(call: int) -> None:
    from etude.tasks.causal_lm import CausalLM

    _before(CausalLM, "validation_step", _kill, call)


def killed_in_a_save(call: int) -> None:
    """Kills the process when the weights and half of the remaining state are saved."""
    import torch

    whole = torch.save
    calls = 0

    def cut(value: Any, path: Path) -> None:
        nonlocal calls
        calls += 1
        whole(value, path)
        if calls == call:
            os.truncate(path, path.stat().st_size // 2)
            _kill()

    torch.save = cut


def killed_after_a_save(call: int) -> None:
    """Kills the process after a checkpoint is saved, before `run.json` is updated."""
    from etude.records.record import Record

    _before(Record, "update", _kill, call)


def killed_in_a_row(call: int) -> None:
    """Kills the process after half a line of metrics."""
    from etude.records.metrics_file import MetricsFile

    whole = MetricsFile.append
    calls = 0

    def cut(self: MetricsFile, row: Any) -> None:
        nonlocal calls
        calls += 1
        whole(self, row)
        if calls == call:
            os.truncate(self.path, self.path.stat().st_size - 9)
            _kill()

    MetricsFile.append = cut  # type: ignore[method-assign]


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(
    owner: Any, name: str, act: Callable[[], None], call: int = 1, every: bool = False
) -> None:
    original = getattr(owner, name)
    calls = 0

    def planted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if every or calls == call:
            act()
        return original(*arguments, **named)

    setattr(owner, name, planted)
