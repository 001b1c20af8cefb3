"""Hydra's basic sweeper without the initial composition of each job.

`etude.sweeps.expand` has checked each value, and the launcher composes each job when it starts.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(BasicSweeper):
    """Runs every combination of the swept values; the last axis varies fastest.

    Args:
        max_batch_size: number of jobs passed to the launcher at a time; None for all.
        params: axes in addition to those of the command line.
    """

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from etude.sweeps.application import is_etude_task

        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self._is_checked = is_etude_task(task_function)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        if not self._is_checked:
            super().validate_batch_is_legal(batch)
