"""Hydra's basic sweeper, without composing each job before the first one starts.

`etude.sweeps.expand` has tried every value, and the launcher composes each job when its turn comes.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(BasicSweeper):
    """Every combination of the swept values, the last axis fastest.

    Args:
        max_batch_size: jobs that the launcher is given at once; None for all.
        params: axes beside those that are typed.
    """

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from etude.sweeps.application import is_etudes

        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self._tried = is_etudes(task_function)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        if not self._tried:
            super().validate_batch_is_legal(batch)
