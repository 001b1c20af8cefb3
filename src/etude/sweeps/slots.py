"""How many jobs run at once on this machine, and what each may use."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etude.errors import Checks
from etude.training.devices import cores

if TYPE_CHECKING:
    from etude.models.cost import Cost


@dataclass(frozen=True)
class Slot:
    """A place for one job.

    Attributes:
        environment: set in the job's process.
        threads: of torch; None leaves them as they are.
    """

    environment: dict[str, str]
    threads: int | None


SMALL_STEP = 20e9
"""Operations of a micro-batch that one core does in about a second. Threads of a job with less than
that wait for one another more than they compute."""


def beside_each_other(step: Cost, jobs: int, free: int | None) -> int:
    """How many small jobs run at once on a CPU, with `threads_each`; 1 for others, which take all
    cores.

    A job is small if its micro-batch has at most `SMALL_STEP` operations, and if jobs on all cores
    need at most half of the memory that is free.

    Args:
        step: what a micro-batch takes.
        jobs: of the sweep.
        free: bytes of memory; None where that is not known.
    """
    count = min(jobs, cores() // threads_each())
    fits = free is None or count * step.step_bytes <= free / 2
    return max(1, count) if fits and step.training_flops <= SMALL_STEP else 1


def threads_each() -> int:
    """Threads of a small job: one, or what `OMP_NUM_THREADS` says, which is the user's word."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(stated)) if stated.isdecimal() else 1


def slots(n_jobs: int | str, jobs_per_gpu: int, *, gpus: list[str]) -> list[Slot]:
    """The places for jobs.

    Args:
        n_jobs: at once; `auto` is one, or `jobs_per_gpu` on each GPU.
        jobs_per_gpu: how many jobs share a GPU.
        gpus: what `CUDA_VISIBLE_DEVICES` can name; empty for jobs that use none.

    Raises:
        InvalidArguments: a number below 1, or more jobs than the GPUs have places.
    """
    checks = Checks()
    auto = n_jobs == "auto"
    whole = auto or (isinstance(n_jobs, int) and n_jobs > 0)
    checks.that(whole, "n_jobs", n_jobs, "a positive whole number, or auto")
    checks.that(jobs_per_gpu > 0, "jobs_per_gpu", jobs_per_gpu, "a positive whole number")
    checks.done()
    places = len(gpus) * jobs_per_gpu
    count = max(1, places) if auto else int(n_jobs)
    if gpus:
        fits = count <= places
        hint = "a larger hydra.launcher.jobs_per_gpu lets more share one"
        checks.that(fits, "n_jobs", n_jobs, f"at most {places}, on {len(gpus)} GPUs", hint)
        checks.done()
    share = None if count == 1 or "OMP_NUM_THREADS" in os.environ else max(1, cores() // count)
    return [
        Slot({"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if gpus else {}, share)
        for index in range(count)
    ]


def visible_gpus() -> list[str]:
    """The GPUs that jobs may use; found without touching CUDA, which would not survive a fork."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is not None:
        return [name.strip() for name in stated.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.split() if answer.returncode == 0 else []
