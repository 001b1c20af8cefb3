"""Hydra plugin of `etude.sweeps.search`, which is imported when a search starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class SearchSweeper(Sweeper):
    """Sweeper on Optuna: chooses jobs by the results of earlier ones.

    Args:
        params: axes in addition to those of the command line.
        options: options of the search; see `etude.sweeps.search.SearchOptions`.
    """

    def __init__(self, params: DictConfig | None = None, **options: Any) -> None:
        self.params, self.options = params, options
        self.config: DictConfig
        self.hydra_context: HydraContext
        self.launcher: Any = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from etude.sweeps.application import is_etude_task

        if not is_etude_task(task_function):
            raise HydraException("hydra/sweeper=search supports only jobs of etude")
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[list[JobReturn]]:
        from etude.config.targets import resolve_class
        from etude.sweeps.search import Search, parse_options
        from etude.sweeps.space import parse_space

        options = parse_options(self.options)
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        extensions = list(self.config.get("extensions", ()))
        task: Any = resolve_class(str(self.config.task["_target_"]), "task", extensions)
        search = Search(
            folder,
            parse_space(arguments, parser),
            options,
            self.config.task.get("monitor") or task.monitor,
            (task.more_is_better, task.less_is_better),
        )
        search.open()
        try:
            return [list(self._returns(search))]
        finally:
            search.close()

    def _returns(self, search: Any) -> Iterator[JobReturn]:
        sweep_launcher = getattr(self.launcher, "sweep_launcher", None)
        if sweep_launcher is not None:
            sweep_launcher.swept.total = search.options.n_trials
            yield from sweep_launcher.launch_each(
                search.proposals(), first=search.done, ended=search.ended, decide=search.decide
            )
            return
        # Other launchers run one job at a time.
        for number, overrides in enumerate(filter(None, search.proposals())):
            (returned,) = self.launcher.launch([overrides], initial_job_idx=number)
            search.ended(returned.return_value)
            yield returned
