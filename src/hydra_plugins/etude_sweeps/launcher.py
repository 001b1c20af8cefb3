"""Hydra plugin of `etude.sweeps.launcher`, which is imported when a sweep starts.

Jobs of other applications than `etude` are run by Hydra's basic launcher, sequentially in this
process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ProcessLauncher(Launcher):
    """Runs jobs in parallel, each in its own process.

    Args:
        n_jobs: number of parallel jobs. `auto` is `jobs_per_gpu` on each GPU; on a CPU it is one,
            or one small job on each core.
        jobs_per_gpu: number of jobs that share a GPU.
    """

    def __init__(self, n_jobs: int | str = "auto", jobs_per_gpu: int = 1) -> None:
        self.options: dict[str, Any] = {"n_jobs": n_jobs, "jobs_per_gpu": jobs_per_gpu}
        self.sweep_launcher: Any = None
        self.basic_launcher: BasicLauncher | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from etude.sweeps.application import is_etude_task

        if not is_etude_task(task_function):
            self.basic_launcher = BasicLauncher()
            self.basic_launcher.setup(
                hydra_context=hydra_context, task_function=task_function, config=config
            )
            return
        from etude.sweeps.launcher import SweepLauncher

        swept: Any = task_function
        self.sweep_launcher = SweepLauncher(swept, config, **self.options)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        if self.basic_launcher is not None:
            return self.basic_launcher.launch(job_overrides, initial_job_idx)
        returns: list[JobReturn] = self.sweep_launcher.launch(job_overrides, initial_job_idx)
        return returns
