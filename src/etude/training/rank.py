"""A rank from 1 on: a process that trains along with rank 0 and writes nothing to the record."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import Any, TypedDict

import torch
from omegaconf import DictConfig, OmegaConf

from etude.config.checks import check
from etude.config.schema import Config
from etude.errors import Problem, RequestError
from etude.records.metrics import MetricsFile
from etude.records.record import Record
from etude.stopping import HANDLED
from etude.training.assemble import assemble
from etude.training.build import build_parts
from etude.training.ddp import find_store, join
from etude.training.initial import Initial
from etude.training.loop import Diverged, Paused
from etude.training.memory import keeping_memory
from etude.training.model import build_model
from etude.training.place import cache_folder
from etude.training.run import is_out_of_memory
from etude.training.signals import StopSignals


class Told(TypedDict):
    """What rank 0 tells another rank.

    Attributes:
        config: the run's, as YAML.
        rank, world: this process, and how many there are.
        threads: for torch, in each of them.
        port: of the store where they meet.
        parent: rank 0's process.
        path: where Python looks for modules.
        record: the run's folder.
        checkpoint: what the run continues from, if anything, and
        step: how many optimizer steps are in it.
        content: the fingerprint of the data.
    """

    config: str
    rank: int
    world: int
    threads: int
    port: int
    parent: int
    path: list[str]
    record: str
    checkpoint: str | None
    step: int
    content: str


def main(told: Told) -> None:
    """Trains along, then waits for rank 0, which may still be reading what it was sent last."""
    say, ending = _line_to_rank_0(told["parent"])
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    try:
        with keeping_memory():
            _train(told, say)
    except (Diverged, Paused):
        pass  # rank 0 has come to the same
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.flush()
        first = str(error).splitlines()[0] if str(error) else ""
        kind = "" if isinstance(error, RequestError) else f"{type(error).__name__}: "
        say({"is": "failed", "error": kind + first, "out_of_memory": is_out_of_memory(error)})
        os._exit(1)
    say({"is": "done"})
    ending.join()


def _train(told: Told, say: Callable[[dict[str, Any]], None]) -> None:
    rank, world = told["rank"], told["world"]
    torch.set_num_threads(told["threads"])
    config = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(told["config"]))
    assert isinstance(config, DictConfig)
    checked = check(config)
    parts = build_parts(checked)
    parts.data.prepare(cache_folder(checked))
    found = parts.data.fingerprint()
    if found != told["content"]:
        raise RequestError(Problem("data", f"what rank 0 found ({told['content']})", found))
    model = build_model(checked, parts.data.tokenizer_.vocab_size, len(parts.data.labels))
    start = checked.config.init_from
    if start.source is not None and (told["checkpoint"] is None or start.lora.rank):
        Initial.fill(model, checked.config.init_from, Path(checked.run.root))
    record = _ReadOnly.read(Path(told["record"]))
    assembly = assemble(checked, parts, model, record, step=told["step"], rank=rank)
    assembly.loop.signals = _NoSignals()
    say({"is": "ready"})
    store = find_store(told["port"], world)
    join(store, rank=rank, world=world, device=assembly.trainer.strategy.root_device)
    assembly.fit(parts.data, told["checkpoint"])


def _line_to_rank_0(parent: int) -> tuple[Callable[[dict[str, Any]], None], Thread]:
    """Keeps standard output for what rank 0 has to know; what others print there is logged.

    Standard input becomes empty for others: it only shows that rank 0 is there.

    Returns:
        A function that tells rank 0 something, and the thread that ends this process.
    """
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    source = os.dup(0)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    ending = Thread(target=_end_with, args=[source, parent], daemon=True)
    ending.start()

    def say(words: dict[str, Any]) -> None:
        output.write(json.dumps(words) + "\n")
        output.flush()

    return say, ending


def _end_with(source: int, parent: int) -> None:
    """Ends this process when rank 0 closes its end of `source`, or is gone.

    A killed rank 0 may leave workers of its data loader behind for seconds, which hold the other
    end open.
    """
    while True:
        readable, _, _ = select.select([source], [], [], 1.0)
        if (readable and not os.read(source, 1)) or os.getppid() != parent:
            os._exit(1)


class _NoSignals(StopSignals):
    """Ctrl-C reaches every process of a terminal; rank 0 decides what follows from it."""

    def install(self) -> None:
        for number in HANDLED:
            signal.signal(number, signal.SIG_IGN)


class _ReadOnly(Record):
    """The record as another rank sees it."""

    def update(self, **changes: Any) -> None:
        self.info.update(changes)

    @cached_property
    def metrics(self) -> MetricsFile:
        return _NoFile(self.path / "metrics.jsonl")


class _NoFile(MetricsFile):
    def append(self, row: Mapping[str, Any]) -> None:
        pass

    def sync(self) -> dict[str, Any]:
        return {}

    def cut_after(self, step: int) -> None:
        pass
