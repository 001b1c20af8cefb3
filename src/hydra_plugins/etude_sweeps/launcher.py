"""Jobs in processes of their own; `etude.sweeps.launcher` is imported when one starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ProcessLauncher(Launcher):
    """Each job in its own process, several at once.

    Args:
        n_jobs: at once; `auto` is one, or `jobs_per_gpu` on each GPU.
        jobs_per_gpu: how many jobs share a GPU.
    """

    def __init__(self, n_jobs: int | str = "auto", jobs_per_gpu: int = 1) -> None:
        self.options: dict[str, Any] = {"n_jobs": n_jobs, "jobs_per_gpu": jobs_per_gpu}
        self.processes: Any = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from etude.sweeps.launcher import Processes

        swept: Any = task_function
        self.processes = Processes(swept, hydra_context, config, **self.options)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        returns: list[JobReturn] = self.processes.launch(job_overrides, initial_job_idx)
        return returns
