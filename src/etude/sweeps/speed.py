"""How fast a run would train here, by earlier runs, by trying, or by the machine's peak."""

from __future__ import annotations

import json
import os
import socket
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from etude.config.checks import Checked
from etude.config.flat import flat_config
from etude.errors import RequestError
from etude.models.cost import Cost
from etude.records.metrics import rows
from etude.records.record import Record
from etude.records.registry import scan
from etude.tasks.base import Setup
from etude.training.build import Parts
from etude.training.model import LABELS, model_of
from etude.training.process import fresh_settings
from etude.training.throughput import compute_dtype, device_name, matmul_peak

ASSUMED_SHARE = 0.4
"""Of the peak, where nothing was measured; small models reach less, large ones more."""

_LONGEST_STEP = 5.0  # seconds; what would take longer is not tried
_SECONDS = 1.0  # for trying, about
_BESIDE_THE_MODEL = (
    "data.sequence_length",
    "data.batch.examples",
    "data.batch.tokens",
    "trainer.precision",
    "trainer.micro_batch",
    "trainer.compile",
)


@dataclass(frozen=True)
class Speed:
    """Attributes:
    tokens_per_second: targets, over all processes of the run.
    source: where the number is from, for people.
    """

    tokens_per_second: float
    source: str


def device_of(accelerator: str) -> torch.device:
    """Where Lightning would train with this `trainer.accelerator`."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


class EarlierRuns:
    """The speeds that runs below a root recorded on this machine.

    Args:
        root: of the records; read when the first question comes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_shape: dict[str, list[Record]] | None = None

    def speed(
        self, checked: Checked, parts: Parts, vocabulary: int, group: str, device: torch.device
    ) -> Speed | None:
        """That of the latest run of the same model, batch, precision and devices; its own group's
        first."""
        if self._by_shape is None:
            self._by_shape = self._read()
        shape = _shape(flat_config(checked), vocabulary)
        machine = _machine(device_name(device), torch.get_num_threads(), parts.trainer.processes)
        found = self._by_shape.get(shape + machine, [])
        found.sort(key=lambda r: (r.info.get("group") == group, str(r.last_start.get("time"))))
        for record in reversed(found):
            read = rows(record.metrics.path)
            try:
                rates = [row.get("perf/tokens_per_second") for row in read]
            except RequestError:  # its metrics cannot be read: verify says why
                continue
            numbers = [rate for rate in rates if isinstance(rate, int | float) and rate > 0]
            if numbers:  # the first steps of a process are slower
                rate = statistics.median(numbers[1:] or numbers)
                name = f"{record.path.parent.name}/{record.path.name}"
                return Speed(rate, f"measured by {name}")
        return None

    def _read(self) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = {}
        if not self.root.is_dir():
            return found
        host = socket.gethostname()
        for record in scan(self.root):
            start = record.last_start
            if start.get("host") != host:
                continue
            vocabulary = record.info.get("tokenizer", {}).get("size")
            processes = start.get("processes", 1)
            machine = _machine(start.get("device"), start.get("threads"), processes)
            found.setdefault(_shape(record.config, vocabulary) + machine, []).append(record)
        return found


def _shape(config: dict[str, Any], vocabulary: int | None) -> str:
    """What decides the work of a step, as one text."""
    told = {
        key: value
        for key, value in config.items()
        if value is not None and (key.startswith("model.") or key in _BESIDE_THE_MODEL)
    }
    told["model.vocab_size"] = told.get("model.vocab_size") or vocabulary
    return json.dumps(told, sort_keys=True)


def _machine(device: str | None, threads: int | None, processes: int) -> str:
    return f" on {device}, {threads} threads, {processes} processes"


def of_the_peak(
    flops_per_token: float, precision: str, device: torch.device, processes: int
) -> Speed:
    """What `ASSUMED_SHARE` of the measured matrix products a second makes."""
    peak = matmul_peak(str(device), compute_dtype(precision), torch.get_num_threads())
    several = processes if device.type != "cpu" else 1  # on a CPU they share its cores
    source = (
        f"assumed: {ASSUMED_SHARE:.0%} of the {peak / 1e9:,.0f} GFLOP/s that matrix products reach"
    )
    return Speed(ASSUMED_SHARE * peak * several / flops_per_token, source)


def can_be_tried(cost: Cost, precision: str, device: torch.device) -> bool:
    """Whether a micro-batch fits into the memory that is free, and takes a few seconds at most."""
    free = free_memory(device)
    if free is None or cost.step_bytes > 0.8 * free:
        return False
    peak = matmul_peak(str(device), compute_dtype(precision), torch.get_num_threads())
    return cost.training_flops / peak < _LONGEST_STEP


def free_memory(device: torch.device) -> int | None:
    """Bytes that could be taken on `device`; None where it does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError):  # elsewhere half of all counts as free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return None


@dataclass(frozen=True)
class Trial:
    """Seconds of a micro-batch's forward and backward pass, and of the optimizer's step."""

    micro_batch: float
    optimizer: float


def try_out(
    checked: Checked, parts: Parts, vocabulary: int, *, micro_batch: int, device: torch.device
) -> Trial:
    """Trains a few micro-batches of random tokens, about a second, and forgets them.

    Args:
        vocabulary: what the model is built with.
        micro_batch: windows in one.
        device: where.
    """
    with fresh_settings():
        torch.manual_seed(0)
        model = model_of(checked, vocabulary)
        precision = parts.trainer.lightning["precision"]
        dtype = compute_dtype(precision)
        model = model.to(device, dtype if precision.endswith("-true") else None)
        task: Any = parts.task(
            setup=Setup(
                model=model,
                optimizer=parts.optimizer,
                schedule=parts.schedule,
                total_steps=1,
                seed=checked.seed,
                gradient_clip_val=parts.trainer.gradient_clip_val,
            )
        )
        optimizer = task.configure_optimizers()
        micro = task.stand_in(micro_batch, parts.data.sequence_length, vocabulary, LABELS)
        micro = {k: v.to(device) if hasattr(v, "to") else v for k, v in micro.items()}

        mixed = precision.endswith("-mixed")

        def forward_and_backward() -> None:
            with torch.autocast(device.type, dtype, enabled=mixed):
                loss = task.loss(micro) / micro["step_targets"]
            loss.backward()

        def update() -> None:
            task.on_before_optimizer_step(optimizer)
            optimizer.step()
            optimizer.zero_grad()

        passes: list[float] = []
        updates: list[float] = []
        end = time.perf_counter() + _SECONDS
        while len(passes) < 3 or (time.perf_counter() < end and len(passes) < 50):
            passes.append(_timed(forward_and_backward, device))
            updates.append(_timed(update, device))
            if sum(passes) > 2 * _LONGEST_STEP:
                break
    return Trial(statistics.median(passes[1:] or passes), statistics.median(updates[1:] or updates))


def _timed(work: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - began
