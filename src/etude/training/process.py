"""Torch's process-wide settings, which must not reach from one run into another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from etude.exclusive import exclusively
from etude.training.devices import cores


@contextmanager
def as_in_a_fresh_process(what: str) -> Iterator[None]:
    """`fresh_settings`, for one thread at a time: they belong to the whole process.

    Args:
        what: what is done within, for the message to whoever comes second.

    Raises:
        RequestError: another call is in progress, in whatever thread.
    """
    with exclusively(what), fresh_settings():
        yield


@contextmanager
def fresh_settings() -> Iterator[None]:
    """Within, torch's global settings are those of a new process; afterwards they are as before.

    A job of a sweep and the same run alone then end with the same bits, and so does a run in a
    notebook that had set another default dtype or device, or drawn random numbers. Covers the
    default dtype and device, gradients and autocast, deterministic algorithms, anomaly detection,
    cuDNN's autotuner, and the CPU's random numbers.
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
    """Within, each of a run's processes takes its share of the cores.

    `OMP_NUM_THREADS` is the user's word and stands.
    """
    before = torch.get_num_threads()
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(before, max(1, cores() // processes)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
