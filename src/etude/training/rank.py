"""Main program of every rank (process of a run) except rank 0: it trains together with rank 0 and
writes nothing to the run's folder.
"""

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
from etude.records.metrics_file import MetricsFile
from etude.records.record import Record
from etude.stopping import STOP_SIGNALS
from etude.training.build import build_parts
from etude.training.ddp import find_store, join
from etude.training.init_from import InitFromSource
from etude.training.loop import Diverged, Paused
from etude.training.malloc import retain_memory
from etude.training.model import build_model
from etude.training.run import is_out_of_memory
from etude.training.run_folder import cache_folder
from etude.training.session import build_session
from etude.training.signals import StopSignals


class RankRequest(TypedDict):
    """Request that rank 0 sends to another rank when it starts.

    Attributes:
        config: Config of the run as YAML.
        rank: Rank of the process.
        world: Number of processes.
        threads: Number of torch threads in each process.
        port: Port of the store through which the ranks connect.
        parent: Process id of rank 0.
        path: Python's module search path.
        record: The run's folder.
        checkpoint: Checkpoint from which the run continues; None if the run starts from the
            beginning.
        step: Number of optimizer steps that are already trained.
        content: Fingerprint of the data.
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


def main(request: RankRequest) -> None:
    """Entry point of every rank except rank 0: trains together with rank 0, then waits until rank 0
    ends, because rank 0 may still be receiving the last tensors.
    """
    send, ending = _connect_to_rank_0(request["parent"])
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    try:
        with retain_memory():
            _train(request, send)
    except (Diverged, Paused):
        pass  # rank 0 raises the same
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.flush()
        first = str(error).splitlines()[0] if str(error) else ""
        kind = "" if isinstance(error, RequestError) else f"{type(error).__name__}: "
        send({"is": "failed", "error": kind + first, "out_of_memory": is_out_of_memory(error)})
        os._exit(1)
    send({"is": "done"})
    ending.join()


def _train(request: RankRequest, send: Callable[[dict[str, Any]], None]) -> None:
    rank, world = request["rank"], request["world"]
    torch.set_num_threads(request["threads"])
    config = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(request["config"]))
    assert isinstance(config, DictConfig)
    checked = check(config)
    parts = build_parts(checked)
    parts.data.prepare(cache_folder(checked))
    fingerprint = parts.data.fingerprint()
    if fingerprint != request["content"]:
        expected = f"the fingerprint of the data on rank 0, {request['content']}"
        hint = "the processes of the run have read different data"
        raise RequestError(Problem("data", expected, fingerprint, hint))
    model = build_model(checked, parts.data.tokenizer_.vocab_size, len(parts.data.labels))
    start = checked.config.init_from
    if start.source is not None and (request["checkpoint"] is None or start.lora.rank):
        InitFromSource.fill(model, checked.config.init_from, Path(checked.run.root))
    record = _ReadOnlyRecord.read(Path(request["record"]))
    session = build_session(checked, parts, model, record, step=request["step"], rank=rank)
    session.loop.signals = _NoSignals()
    send({"is": "ready"})
    store = find_store(request["port"], world)
    join(store, rank=rank, world=world, device=session.trainer.strategy.root_device)
    session.fit(parts.data, request["checkpoint"])


def _connect_to_rank_0(parent: int) -> tuple[Callable[[dict[str, Any]], None], Thread]:
    """Reserves standard input and output for the connection to rank 0.

    Text that other code prints to standard output is logged, and reading standard input returns
    nothing.

    Args:
        parent: Process id of rank 0.

    Returns:
        A function that sends a message to rank 0, and the thread that ends this process when rank 0
        ends.
    """
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    source = os.dup(0)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    ending = Thread(target=_end_with, args=[source, parent], daemon=True)
    ending.start()

    def send(message: dict[str, Any]) -> None:
        output.write(json.dumps(message) + "\n")
        output.flush()

    return send, ending


def _end_with(source: int, parent: int) -> None:
    """Ends this process when rank 0 closes its end of `source` or has ended.

    Both conditions are checked, because after rank 0 is killed, workers of its data loader may keep
    the other end of `source` open for seconds.

    Args:
        source: File descriptor of the pipe from rank 0.
        parent: Process id of rank 0.
    """
    while True:
        readable, _, _ = select.select([source], [], [], 1.0)
        if (readable and not os.read(source, 1)) or os.getppid() != parent:
            os._exit(1)


class _NoSignals(StopSignals):
    """Signal handling that ignores stop signals, for all ranks except rank 0: Ctrl-C reaches every
    process of a terminal, but only rank 0 handles it.
    """

    def install(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


class _ReadOnlyRecord(Record):
    """`Record` of the run whose methods write nothing, for all ranks except rank 0."""

    def update(self, **changes: Any) -> None:
        self.info.update(changes)

    @cached_property
    def metrics(self) -> MetricsFile:
        return _ReadOnlyMetrics(self.path / "metrics.jsonl")


class _ReadOnlyMetrics(MetricsFile):
    """Metrics file whose methods write nothing."""

    def append(self, row: Mapping[str, Any]) -> None:
        pass

    def sync(self) -> dict[str, Any]:
        return {}

    def truncate_after(self, step: int) -> None:
        pass
