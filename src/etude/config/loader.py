"""Hydra's loader of configs, with a memory for as long as a sweep is put together.

The jobs of a sweep differ mostly in values. Reading the files and ordering the defaults is nearly
all of what composing costs, and neither depends on values, so both are done once for each choice
of files.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException


class RememberingLoader(ConfigLoaderImpl):
    """`ConfigLoaderImpl`, whose every method gives the same result.

    A file that is changed meanwhile is not read again: all jobs of a sweep see the same files.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._composed: dict[tuple[str | None, tuple[str, ...]], DictConfig] = {}
        self._groups: dict[str, bool] = {}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """The config of one job: that of its files, then its values in the order they come."""
        parsed = OverridesParser.create().parse_overrides(overrides)
        values = [override for override in parsed if self._is_value(override)]
        sweeping = any(override.is_sweep_override() for override in parsed)
        elsewhere = any(o.get_key_element() == "hydra.searchpath" for o in parsed)
        if run_mode != RunMode.RUN or sweeping or elsewhere or not values:
            return super().load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        files = [line for o in parsed if o not in values and (line := o.input_line) is not None]
        key = (config_name, tuple(files))
        if key not in self._composed:
            self._composed[key] = super().load_configuration(
                config_name, files, run_mode, from_shell, validate_sweep_overrides
            )
        config = copy.deepcopy(self._composed[key])
        try:
            self._apply_overrides_to_config(values, config)
        except OmegaConfBaseException as error:
            raise ConfigCompositionException().with_traceback(sys.exc_info()[2]) from error
        self._note(config, [override for override in parsed if not override.is_hydra_override()])
        return config

    def _is_value(self, override: Override) -> bool:
        """Whether the override sets a value; else it chooses a file, or is about Hydra."""
        if override.is_hydra_override():
            return False
        key = override.key_or_group
        if key not in self._groups:
            self._groups[key] = bool(self.repository.group_exists(key))
        return not self._groups[key] or isinstance(override.value(), dict)

    @staticmethod
    def _note(config: DictConfig, task: list[Override]) -> None:
        """Tells all overrides where Hydra tells them."""
        config.hydra.overrides.task = [override.input_line for override in task]
        told = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            overrides=task,
            kv_sep=told.kv_sep,
            item_sep=told.item_sep,
            exclude_keys=list(told.exclude_keys),
        )
