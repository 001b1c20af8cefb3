"""Job slots: the number of parallel jobs on this machine, and the resources of each."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etude.counts import counted
from etude.errors import Checks
from etude.training.devices import cores

if TYPE_CHECKING:
    from etude.models.cost import Cost


@dataclass(frozen=True)
class JobSlot:
    """Resources of the machine that one job at a time may use.

    Attributes:
        environment: environment variables to set in the job's process.
        threads: number of torch threads; None keeps the default.
    """

    environment: dict[str, str]
    threads: int | None


SMALL_STEP = 20e9
"""FLOP of a micro-batch that one core computes in about a second. In a job with smaller
micro-batches, several threads would spend more time on synchronisation than on computing."""


def small_job_count(step: Cost, jobs: int, free: int | None) -> int:
    """Returns the number of jobs to run in parallel on a CPU, if they are small; otherwise 1.

    Jobs are small if a micro-batch takes at most `SMALL_STEP` FLOP, and if jobs on all cores need
    at most half of the free memory. A small job uses `threads_per_small_job` threads, a larger one
    all cores. The number for small jobs is the number of cores divided by these threads, but at
    most `jobs`.

    Args:
        step: FLOP and memory of a micro-batch of the first job.
        jobs: number of jobs of the sweep.
        free: free memory in bytes; None if unknown, so that the memory is not checked.
    """
    count = min(jobs, cores() // threads_per_small_job())
    fits = free is None or count * step.step_bytes <= free / 2
    return max(1, count) if fits and step.training_flops <= SMALL_STEP else 1


def threads_per_small_job() -> int:
    """Returns the number of threads of a small job: one, or `OMP_NUM_THREADS` if it is set."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(stated)) if stated.isdecimal() else 1


def job_slots(n_jobs: int | str, jobs_per_gpu: int, *, gpus: list[str]) -> list[JobSlot]:
    """Returns the job slots: for each of the jobs that run in parallel, the resources it may use.

    Args:
        n_jobs: number of parallel jobs. `auto` means one job on the CPU, or `jobs_per_gpu` jobs on
            each GPU.
        jobs_per_gpu: number of jobs that share a GPU.
        gpus: GPUs as in `CUDA_VISIBLE_DEVICES`; empty for jobs on the CPU.

    Raises:
        InvalidArguments: If a number is below 1, or `n_jobs` exceeds `jobs_per_gpu` times the
            number of GPUs. On the CPU, `n_jobs` has no upper limit.
    """
    checks = Checks()
    auto = n_jobs == "auto"
    valid = auto or (isinstance(n_jobs, int) and n_jobs > 0)
    checks.that(valid, "n_jobs", n_jobs, "a positive whole number, or auto")
    checks.that(jobs_per_gpu > 0, "jobs_per_gpu", jobs_per_gpu, "a positive whole number")
    checks.done()
    capacity = len(gpus) * jobs_per_gpu
    count = max(1, capacity) if auto else int(n_jobs)
    if gpus:
        fits = count <= capacity
        hint = "to run several jobs on each GPU, increase hydra.launcher.jobs_per_gpu"
        expected = f"at most {counted(capacity, 'job')} on {counted(len(gpus), 'GPU')}"
        checks.that(fits, "n_jobs", n_jobs, expected, hint)
        checks.done()
    limited = count > 1 and "OMP_NUM_THREADS" not in os.environ
    threads = max(1, cores() // count) if limited else None
    return [
        JobSlot({"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if gpus else {}, threads)
        for index in range(count)
    ]


def visible_gpus() -> list[str]:
    """Returns the ids of the GPUs that jobs may use, as in `CUDA_VISIBLE_DEVICES`.

    If this variable is not set, these are all GPUs that `nvidia-smi` lists. The list is empty if
    there are none. CUDA is not initialised, because a forked process could then not use it.
    """
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is not None:
        return [name.strip() for name in stated.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return result.stdout.split() if result.returncode == 0 else []
