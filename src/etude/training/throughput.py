"""Training speed: tokens and FLOPs per second, and model FLOPs utilisation (MFU).

MFU (Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B) is relative to the measured speed of
matrix products on this machine, not to a data sheet.
"""

from __future__ import annotations

import logging
import platform
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import nn

from etude.errors import RequestError
from etude.models.cost import Uncountable, cost
from etude.records.files import read_json, write_json
from etude.records.signature import DIGITS, sha256_of
from etude.sources import source_hash

log = logging.getLogger("etude")

_SECONDS = 0.3  # for one measurement of the peak
_LARGEST = 8192  # maximum rows of a square matrix
_COMPUTES_IN = {
    "64-true": torch.float64,
    "32-true": torch.float32,
    "bf16-true": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
    "16-true": torch.float16,
    "16-mixed": torch.float16,
}


class Throughput:
    """Measurement of the training speed between two rows of metrics.

    Time for validation, saving and startup is excluded. The first steps of a process, which are
    slower (memory, compilation), are included.

    Args:
        tokens_per_step: Number of target tokens in one optimizer step, over all ranks.

    Attributes:
        flops_per_token: FLOPs of the forward and backward pass per token; None if unknown.
        peak: Measured peak of all devices of the run together, in FLOPs per second; None if
            unknown. Both are None until the caller sets them. Metrics that need a number that is
            None are omitted.
    """

    def __init__(self, tokens_per_step: int) -> None:
        self.tokens_per_step = tokens_per_step
        self.flops_per_token: float | None = None
        self.peak: float | None = None
        self._seconds = 0.0  # since the last row, without pauses
        self._running_since: float | None = None
        self._step = 0  # of the last row, or the first of this process

    def start(self, step: int) -> None:
        """Starts a new measurement after optimizer step `step`."""
        self._step, self._seconds, self._running_since = step, 0.0, time.perf_counter()

    def pause(self) -> None:
        """Stops counting time until `resume`."""
        if self._running_since is not None:
            self._seconds += time.perf_counter() - self._running_since
            self._running_since = None

    def resume(self) -> None:
        """Counts time again after `pause`; cheap enough to be called at every step."""
        if self._running_since is None:
            self._running_since = time.perf_counter()

    def since_last_row(self, step: int, tokens: int | None = None) -> dict[str, float]:
        """Returns the metrics `perf/*` since the last row of metrics, by name, and starts the next
        measurement.

        The metrics are `perf/tokens_per_second`, `perf/flops_per_second` and `perf/mfu`. Empty if
        there was no step since the last row.

        Must be called after the losses are read, because only then a GPU has finished its steps.

        Args:
            step: Current optimizer step.
            tokens: Number of tokens since the last row; None assumes `tokens_per_step` per step.
        """
        self.pause()
        seconds, steps = self._seconds, step - self._step
        self.start(step)
        if seconds <= 0 or steps < 1:
            return {}
        count = steps * self.tokens_per_step if tokens is None else tokens
        row = {"perf/tokens_per_second": count / seconds}
        if self.flops_per_token is not None:
            row["perf/flops_per_second"] = row["perf/tokens_per_second"] * self.flops_per_token
            if self.peak is not None:
                row["perf/mfu"] = row["perf/flops_per_second"] / self.peak
        return {name: float(f"{value:.5g}") for name, value in row.items()}


_MEASURED = 5
"""Number of measurements of a machine's peak, each in a different process."""

_counted: dict[str, float | None] = {}


def flops_per_token(
    build: Callable[[], nn.Module], *, length: int, identity: Any, memory: Path | None = None
) -> float | None:
    """Returns the FLOPs of the forward and backward pass per token, for sequences of `length`
    tokens.

    Args:
        build: Builds the model, which maps B sequences of T token ids, an array (B, T), to logits
            (B, T, V) over a vocabulary of V tokens.
        length: Length T of the sequences.
        identity: JSON data that identifies the model. The FLOPs of a model with the same identity
            are counted only once.
        memory: Cache folder; None for a model with custom code, whose result is not cached.

    Returns:
        The FLOPs per token; None, with a warning, for a model that cannot be counted.
    """
    key = sha256_of([identity, length, source_hash(), torch.__version__])
    file = None if memory is None else memory / "flops" / f"{key[:DIGITS]}.json"
    if key not in _counted:
        known = None if file is None else _read_cached(file)
        if isinstance(known, float):
            return known
        try:
            counted = cost(build, length=length)
            _counted[key] = counted.training_flops / counted.positions
            if file is not None:
                _write_cached(file, _counted[key])
        except Uncountable as error:
            log.warning("cannot compute perf/flops_per_second and perf/mfu: %s", error)
            _counted[key] = None
    return _counted[key]


def _read_cached(file: Path) -> Any:
    """Reads a file of the cache; returns None if it is missing or damaged."""
    with suppress(RequestError):
        return read_json(file)
    return None


def _write_cached(file: Path, content: Any) -> None:
    with suppress(OSError):  # it is measured again
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, content)


def compute_dtype(precision: str) -> torch.dtype:
    """Returns the dtype of matrix products for a value of `trainer.precision`."""
    return _COMPUTES_IN[precision]


def machine_peak(device: torch.device, dtype: torch.dtype, memory: Path) -> float:
    """Returns the peak speed of matrix products on this machine, in FLOPs per second.

    Because other processes can slow a measurement down, the maximum of up to five measurements is
    used. The measurements are cached by host, device, threads, torch version and dtype.

    Args:
        device: Device of the run.
        dtype: Dtype of the matrices.
        memory: Folder with the cache `matmul_peaks.json`. If it is read-only, the measurement is
            not cached.
    """
    file = memory / "matmul_peaks.json"
    key = " | ".join(
        (
            socket.gethostname(),
            device_name(device),
            f"{torch.get_num_threads()} threads",
            f"torch {torch.__version__}",
            str(dtype).removeprefix("torch."),
        )
    )
    known = _read_cached(file)
    known = known if isinstance(known, dict) else {}
    before = known.get(key)
    values = before if isinstance(before, list) else [before]  # earlier versions cached one number
    seen = [value for value in values if isinstance(value, float) and value > 0]
    if len(seen) < _MEASURED:
        seen.append(matmul_peak(str(device), dtype, torch.get_num_threads()))
        _write_cached(file, known | {key: seen})
    return max(seen)


@cache
def matmul_peak(device: str, dtype: torch.dtype, threads: int) -> float:
    """Measures the peak speed of products of square matrices, once per process.

    Doubles the size of the matrices, from 256, for about 0.3 s and uses the fastest of three
    products of each size. The first product of a size is not counted, because on a GPU it also
    loads the library.

    Args:
        device: Device of the matrices.
        dtype: Dtype of the matrices.
        threads: Number of torch threads in use, to which the measurement applies.

    Returns:
        The peak in FLOPs per second.
    """
    target = torch.device(device)
    generator = torch.Generator(target).manual_seed(0)  # not the run's random numbers
    size, peak, before, end = 256, 0.0, inf, 0.0
    while True:
        a = torch.rand(size, size, generator=generator, device=target).to(dtype)
        b, out = a.T.contiguous(), torch.empty_like(a)
        _seconds(a, b, out)  # the first product of a size is slower
        end = end or time.perf_counter() + _SECONDS
        seconds = min(_seconds(a, b, out) for _ in range(3))
        peak = max(peak, 2 * size**3 / seconds)
        # Eight times the arithmetic, the same latency, which is high on a shared GPU.
        next_takes = seconds + 8 * max(0.0, seconds - before)
        size, before = 2 * size, seconds
        if size > _LARGEST or time.perf_counter() + 4 * next_takes > end:
            return peak


def _seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
    _synchronize(a.device)
    began = time.perf_counter()
    torch.mm(a, b, out=out)
    _synchronize(a.device)
    return time.perf_counter() - began


def _synchronize(device: torch.device) -> None:
    """Waits until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@cache
def device_name(device: torch.device) -> str:
    """Returns the name of a GPU or the model of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
