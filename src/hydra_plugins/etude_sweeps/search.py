"""A sweeper on Optuna; `etude.sweeps.search` is imported when a search starts."""

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
    """Chooses the jobs of a sweep by what earlier ones came to.

    Args:
        params: axes beside those that are typed.
        options: see `etude.sweeps.search.Options`.
    """

    def __init__(self, params: DictConfig | None = None, **options: Any) -> None:
        self.params, self.options = params, options
        self.config: DictConfig
        self.hydra_context: HydraContext
        self.launcher: Any = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from etude.sweeps.application import is_etudes

        if not is_etudes(task_function):
            raise HydraException("hydra/sweeper=search searches over runs of etude only")
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[list[JobReturn]]:
        from etude.config.targets import resolve
        from etude.sweeps.search import Search, options_of
        from etude.sweeps.space import space_of

        options = options_of(self.options)
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        extensions = list(self.config.get("extensions", ()))
        task: Any = resolve(str(self.config.task["_target_"]), "task", extensions)
        search = Search(
            folder,
            space_of(arguments, parser),
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
        processes = getattr(self.launcher, "processes", None)
        if processes is not None:
            processes.swept.total = search.options.n_trials
            yield from processes.each(
                search.proposals(), first=search.done, ended=search.ended, decide=search.decide
            )
            return
        for number, overrides in enumerate(filter(None, search.proposals())):  # one at a time
            (returned,) = self.launcher.launch([overrides], initial_job_idx=number)
            search.ended(returned.return_value)
            yield returned
