"""How many jobs run at once on this machine, and what each may use."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from etude.errors import Checks
from etude.training.devices import cores


@dataclass(frozen=True)
class Slot:
    """A place for one job.

    Attributes:
        environment: set in the job's process.
        threads: of torch; None leaves them as they are.
    """

    environment: dict[str, str]
    threads: int | None


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
