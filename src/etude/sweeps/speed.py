"""Estimation of the training speed: from earlier runs, a few timed steps, or the machine's peak."""

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

from etude.config.checks import CheckedConfig
from etude.config.flattening import flatten_config
from etude.counts import counted
from etude.errors import RequestError
from etude.models.cost import Cost
from etude.records.metrics_file import iter_rows
from etude.records.record import Record
from etude.records.registry import read_records
from etude.tasks.base import Setup
from etude.training.build import Parts
from etude.training.model import PLACEHOLDER_LABELS, build_model_from_config
from etude.training.process import fresh_settings
from etude.training.throughput import compute_dtype, device_name, matmul_peak

ASSUMED_UTILIZATION = 0.4
"""Fraction of the machine's peak that is assumed without a measurement.

Small models reach less, large models more.
"""

_LONGEST_STEP = 5.0  # seconds; longer steps are not timed
_TIMING_SECONDS = 1.0
_OTHER_KEYS = (
    "data.sequence_length",
    "data.batch.examples",
    "data.batch.tokens",
    "trainer.precision",
    "trainer.micro_batch",
    "trainer.compile",
)


@dataclass(frozen=True)
class Speed:
    """Training speed of a run, with its source.

    Attributes:
        tokens_per_second: target tokens per second, over all processes of the run.
        source: description of how the number was measured or estimated.
    """

    tokens_per_second: float
    source: str


def device_of(accelerator: str) -> torch.device:
    """Returns the device that Lightning would use if `trainer.accelerator` is `accelerator`."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


class EarlierRuns:
    """Reader of the speeds that earlier runs on this machine have saved.

    Args:
        root: root folder of the runs, which is read at the first call of `speed`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_shape: dict[str, list[Record]] | None = None

    def speed(
        self,
        checked: CheckedConfig,
        parts: Parts,
        vocabulary: int,
        group: str,
        device: torch.device,
    ) -> Speed | None:
        """Returns the training speed of the latest earlier run that is similar.

        A run is similar if it has the same model, vocabulary size, sequence length, batch,
        micro-batch, precision, value of `trainer.compile`, device, and numbers of threads and
        processes. Similar runs that differ only in their seed are preferred. Returns None if there
        is no similar run with saved speeds. The result is the median of the run's saved speeds
        without the first one.

        Args:
            checked: checked config of the run whose speed is estimated.
            parts: objects built from the config.
            vocabulary: vocabulary size of the model.
            group: hash that is the same for all runs that differ from this run only in their seed.
            device: device to train on.
        """
        if self._by_shape is None:
            self._by_shape = self._read()
        shape = _shape(flatten_config(checked), vocabulary)
        machine = _machine(device_name(device), torch.get_num_threads(), parts.trainer.processes)
        records = self._by_shape.get(shape + machine, [])
        records.sort(key=lambda r: (r.info.get("group") == group, str(r.last_start.get("time"))))
        for record in reversed(records):
            metric_rows = iter_rows(record.metrics.path)
            try:
                rates = [row.get("perf/tokens_per_second") for row in metric_rows]
            except RequestError:  # damaged metrics; `etude runs verify` reports them
                continue
            valid = [rate for rate in rates if isinstance(rate, int | float) and rate > 0]
            if valid:  # without the first value, as the first steps of a process are slower
                rate = statistics.median(valid[1:] or valid)
                name = f"{record.path.parent.name}/{record.path.name}"
                return Speed(rate, f"measured in {name}")
        return None

    def _read(self) -> dict[str, list[Record]]:
        """Returns the runs on this machine as a dict of lists.

        The runs of a list are similar in the sense of `speed`. The key is a text with the values
        that they have in common.
        """
        by_shape: dict[str, list[Record]] = {}
        if not self.root.is_dir():
            return by_shape
        host = socket.gethostname()
        for record in read_records(self.root):
            start = record.last_start
            if start.get("host") != host:
                continue
            vocabulary = record.info.get("tokenizer", {}).get("size")
            processes = start.get("processes", 1)
            machine = _machine(start.get("device"), start.get("threads"), processes)
            by_shape.setdefault(_shape(record.config, vocabulary) + machine, []).append(record)
        return by_shape


def _shape(config: dict[str, Any], vocabulary: int | None) -> str:
    """Returns a text with the settings that determine the FLOP of an optimizer step.

    Runs with the same text can be compared.

    Args:
        config: the config: a dict from dotted keys to values.
        vocabulary: vocabulary size, used if the config does not set it; None if it is unknown.
    """
    settings = {
        key: value
        for key, value in config.items()
        if value is not None and (key.startswith("model.") or key in _OTHER_KEYS)
    }
    settings["model.vocab_size"] = settings.get("model.vocab_size") or vocabulary
    return json.dumps(settings, sort_keys=True)


def _machine(device: str | None, threads: int | None, processes: int) -> str:
    return f" on {device}, {counted(threads or 0, 'thread')}, {counted(processes, 'process')}"


def speed_from_peak(
    flops_per_token: float, precision: str, device: torch.device, processes: int
) -> Speed:
    """Estimates the training speed as the fraction `ASSUMED_UTILIZATION` of the machine's peak.

    The peak is measured with matrix products.

    Args:
        flops_per_token: FLOP of training per target token (token to predict).
        precision: the run's `trainer.precision`, such as `bf16-mixed`.
        device: device to train on.
        processes: number of processes of the run.
    """
    peak = matmul_peak(str(device), compute_dtype(precision), torch.get_num_threads())
    factor = processes if device.type != "cpu" else 1  # processes share the cores of a CPU
    percent = f"{ASSUMED_UTILIZATION:.0%}"
    source = f"assumed: {percent} of this machine's {peak / 1e9:,.0f} GFLOP/s in matrix products"
    return Speed(ASSUMED_UTILIZATION * peak * factor / flops_per_token, source)


def is_measurable(cost: Cost, precision: str, device: torch.device) -> bool:
    """Returns whether a training step can be timed.

    A micro-batch must fit into the free memory of `device`, and take at most a few seconds. If the
    free memory is unknown, returns false.

    Args:
        cost: FLOP and memory of the micro-batch.
        precision: the run's `trainer.precision`, such as `bf16-mixed`.
        device: device to train on.
    """
    free = free_memory(device)
    if free is None or cost.step_bytes > 0.8 * free:
        return False
    peak = matmul_peak(str(device), compute_dtype(precision), torch.get_num_threads())
    return cost.training_flops / peak < _LONGEST_STEP


def free_memory(device: torch.device) -> int | None:
    """Returns the free memory of `device` in bytes; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError):  # on other systems, half of all memory counts as free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return None


@dataclass(frozen=True)
class StepTiming:
    """Measured durations of the two parts of a training step, in seconds.

    Attributes:
        micro_batch: duration of the forward and backward pass of a micro-batch.
        optimizer: duration of the optimizer's update.
    """

    micro_batch: float
    optimizer: float


def time_steps(
    checked: CheckedConfig, parts: Parts, vocabulary: int, *, micro_batch: int, device: torch.device
) -> StepTiming:
    """Trains a temporary model on random tokens for about a second, and returns the durations.

    Args:
        checked: checked config of the run.
        parts: objects built from the config: data, optimizer, schedule, trainer and task.
        vocabulary: vocabulary size of the model.
        micro_batch: number of windows of a micro-batch.
        device: device to train on.
    """
    with fresh_settings():
        torch.manual_seed(0)
        model = build_model_from_config(checked, vocabulary)
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
        micro = task.dummy_micro_batch(
            micro_batch, parts.data.sequence_length, vocabulary, PLACEHOLDER_LABELS
        )
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
        end = time.perf_counter() + _TIMING_SECONDS
        while len(passes) < 3 or (time.perf_counter() < end and len(passes) < 50):
            passes.append(_timed(forward_and_backward, device))
            updates.append(_timed(update, device))
            if sum(passes) > 2 * _LONGEST_STEP:
                break
    return StepTiming(
        statistics.median(passes[1:] or passes), statistics.median(updates[1:] or updates)
    )


def _timed(work: Callable[[], None], device: torch.device) -> float:
    """Returns the seconds from a call of `work` until `device` has finished the operations."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - began
