"""Jobs in processes of their own; `etude.sweeps.launcher` is imported when one starts.

Jobs of another application than `etude` are run by Hydra's basic launcher, one after the other in
this process.
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
    """Each job in its own process, several at once.

    Args:
        n_jobs: at once; `auto` is `jobs_per_gpu` on each GPU, and on a CPU one, or a small one on
            each core.
        jobs_per_gpu: how many jobs share a GPU.
    """

    def __init__(self, n_jobs: int | str = "auto", jobs_per_gpu: int = 1) -> None:
        self.options: dict[str, Any] = {"n_jobs": n_jobs, "jobs_per_gpu": jobs_per_gpu}
        self.processes: Any = None
        self.plain: BasicLauncher | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from etude.sweeps.application import is_etudes

        if not is_etudes(task_function):
            self.plain = BasicLauncher()
            self.plain.setup(
                hydra_context=hydra_context, task_function=task_function, config=config
            )
            return
        from etude.sweeps.launcher import Processes

        swept: Any = task_function
        self.processes = Processes(swept, config, **self.options)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        if self.plain is not None:
            return self.plain.launch(job_overrides, initial_job_idx)
        returns: list[JobReturn] = self.processes.launch(job_overrides, initial_job_idx)
        return returns
