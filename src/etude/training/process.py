"""Isolates torch's process-wide settings between runs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from etude.exclusivity import reserve_process
from etude.training.devices import cores


@contextmanager
def exclusive_fresh_settings(what: str) -> Iterator[None]:
    """Context manager like `fresh_settings`, but only one thread at a time can enter it.

    Args:
        what: Name of the operation, for the error message if another thread enters.

    Raises:
        RequestError: Another operation is in progress, in any thread.
    """
    with reserve_process(what), fresh_settings():
        yield


@contextmanager
def fresh_settings() -> Iterator[None]:
    """Context manager in which torch's global settings have their defaults; restores the previous
    settings on exit.

    The results of a run are then bitwise the same in a sweep, alone, or in a notebook that has set
    another default dtype or device or has drawn random numbers. Covers the default dtype and
    device, gradients and autocast, deterministic algorithms, anomaly detection, cuDNN's autotuner,
    and the CPU's random number generator. Filters of Python warnings are restored, too.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    anomaly, autotuner = torch.is_anomaly_enabled(), torch.backends.cudnn.benchmark
    moved = device.type != "cpu"
    torch.set_default_dtype(torch.float32)
    if moved:
        torch.set_default_device(None)
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)
    torch.backends.cudnn.benchmark = False
    try:
        with (
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)
        if moved:
            torch.set_default_device(device)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.autograd.set_detect_anomaly(anomaly)
        torch.backends.cudnn.benchmark = autotuner


@contextmanager
def shared_threads(processes: int) -> Iterator[None]:
    """Context manager that divides the CPU cores among a run's processes: this process uses at most
    its share of the cores as torch threads. On exit, restores the number of threads.

    Does nothing for one process, or if the user has set `OMP_NUM_THREADS`.

    Args:
        processes: Number of processes of the run.
    """
    before = torch.get_num_threads()
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(before, max(1, cores() // processes)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
