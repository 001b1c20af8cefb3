"""How fast a run trains: tokens and operations a second, and their share of what the machine can.

The share, model FLOPs utilisation (Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B), is
taken of the matrix products that this machine was measured to do, not of a data sheet.
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
_LARGEST = 8192  # rows of a square matrix
_COMPUTES_IN = {
    "64-true": torch.float64,
    "32-true": torch.float32,
    "bf16-true": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
    "16-true": torch.float16,
    "16-mixed": torch.float16,
}


class Throughput:
    """Counts the time spent training, and says at each row how fast it went since the last one.

    Validating, saving and starting up are not counted; the first steps of a process, which take
    longer than those after them (memory, compilation), are.

    Args:
        tokens_per_step: targets of one optimizer step, over all ranks.

    Attributes:
        flops_per_token: operations of the forward and backward pass for one token.
        peak: the operations a second that all devices of the run together were seen to do.
    """

    def __init__(self, tokens_per_step: int) -> None:
        self.tokens_per_step = tokens_per_step
        self.flops_per_token: float | None = None
        self.peak: float | None = None
        self._seconds = 0.0  # since the last row, without the pauses
        self._running_since: float | None = None
        self._step = 0  # of the last row, or where this process began

    def start(self, step: int) -> None:
        """Training goes on after `step`, from a row or in a new process."""
        self._step, self._seconds, self._running_since = step, 0.0, time.perf_counter()

    def pause(self) -> None:
        """What comes is no training, until `resume`."""
        if self._running_since is not None:
            self._seconds += time.perf_counter() - self._running_since
            self._running_since = None

    def resume(self) -> None:
        """Training goes on; cheap enough for each step."""
        if self._running_since is None:
            self._running_since = time.perf_counter()

    def since_last_row(self, step: int, tokens: int | None = None) -> dict[str, float]:
        """`perf/*` of the steps up to `step`, and begins anew.

        Args:
            tokens: in these steps; None takes `tokens_per_step` for each.

        To be called when the losses were read: only then is a GPU done with its steps.
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
"""Measurements of a machine's peak, each in another process."""

_counted: dict[str, float | None] = {}


def flops_per_token(
    build: Callable[[], nn.Module], *, length: int, identity: Any, memory: Path | None = None
) -> float | None:
    """Operations of the forward and backward pass over `length` tokens, for one of them.

    Args:
        build: makes the model, mapping tokens (B, T) to logits (B, T, V).
        length: T.
        identity: plain data that says which model it is; each is counted once.
        memory: the folder that remembers the counts of this source; None is for a model of another.

    Returns:
        None for a model that cannot be counted; the reason is told.
    """
    key = sha256_of([identity, length, source_hash(), torch.__version__])
    file = None if memory is None else memory / "flops" / f"{key[:DIGITS]}.json"
    if key not in _counted:
        known = None if file is None else _remembered(file)
        if isinstance(known, float):
            return known
        try:
            counted = cost(build, length=length)
            _counted[key] = counted.training_flops / counted.positions
            if file is not None:
                _remember(file, _counted[key])
        except Uncountable as error:
            log.warning("no perf/flops_per_second and no perf/mfu: %s", error)
            _counted[key] = None
    return _counted[key]


def _remembered(file: Path) -> Any:
    """What a file of the cache says; None if it is not there yet, or damaged."""
    with suppress(RequestError):
        return read_json(file)
    return None


def _remember(file: Path, content: Any) -> None:
    with suppress(OSError):  # it is found out again
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, content)


def compute_dtype(precision: str) -> torch.dtype:
    """The type of the matrix products under `trainer.precision`."""
    return _COMPUTES_IN[precision]


def machine_peak(device: torch.device, dtype: torch.dtype, memory: Path) -> float:
    """`matmul_peak`, or what was seen before on this very machine if that is more.

    A busy machine does less than it can, so the largest of five measurements is remembered: by
    host, device, threads, torch version and type.

    Args:
        memory: the folder with `matmul_peaks.json`; if it cannot be written, nothing is remembered.
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
    known = _remembered(file)
    known = known if isinstance(known, dict) else {}
    before = known.get(key)
    listed = before if isinstance(before, list) else [before]  # one number, by earlier versions
    seen = [value for value in listed if isinstance(value, float) and value > 0]
    if len(seen) < _MEASURED:
        seen.append(matmul_peak(str(device), dtype, torch.get_num_threads()))
        _remember(file, known | {key: seen})
    return max(seen)


@cache
def matmul_peak(device: str, dtype: torch.dtype, threads: int) -> float:
    """The most operations a second in products of square matrices, measured once a process.

    Sizes are doubled from 256 while the time lasts, about 0.3 s; each product's best of three. The
    very first product is not counted: on a GPU it loads the library, which takes longer than that.

    Args:
        threads: those in use; a measurement stands for this number of them.
    """
    place = torch.device(device)
    generator = torch.Generator(place).manual_seed(0)  # not the run's random numbers
    size, most, before, end = 256, 0.0, inf, 0.0
    while True:
        a = torch.rand(size, size, generator=generator, device=place).to(dtype)
        b, out = a.T.contiguous(), torch.empty_like(a)
        _seconds(a, b, out)  # the first of a size takes longer
        end = end or time.perf_counter() + _SECONDS
        seconds = min(_seconds(a, b, out) for _ in range(3))
        most = max(most, 2 * size**3 / seconds)
        # Eight times the arithmetic, as long a wait: a GPU that others use is long in answering.
        next_takes = seconds + 8 * max(0.0, seconds - before)
        size, before = 2 * size, seconds
        if size > _LARGEST or time.perf_counter() + 4 * next_takes > end:
            return most


def _seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
    _drain(a.device)
    began = time.perf_counter()
    torch.mm(a, b, out=out)
    _drain(a.device)
    return time.perf_counter() - began


def _drain(device: torch.device) -> None:
    """Waits until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@cache
def device_name(device: torch.device) -> str:
    """What a device calls itself: a GPU's name, or the CPU's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
