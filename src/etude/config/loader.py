"""Hydra's loader of configs, with a memory for as long as a sweep is put together.

The jobs of a sweep differ mostly in values. Reading the files and ordering the defaults is nearly
all of what composing costs, and neither depends on values, so both are done once for each choice
of files. Values are set in the order they come: those that a job shares with the one before it, up
to the first that differs, are set once.
"""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

_MOST_PARSED = 10_000
"""Overrides that are remembered; a sweep may have very many."""


class RememberingLoader(ConfigLoaderImpl):
    """`ConfigLoaderImpl`, whose every method gives the same result.

    A file that is changed meanwhile is not read again: all jobs of a sweep see the same files.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._with_hydra: dict[_Files, _Begun] = {}
        self._of_runs: dict[_Files, tuple[_Begun, dict[str, Any]]] = {}
        self._groups: dict[str, bool] = {}
        self._parsed: dict[str, Override] = {}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """The config of one job: that of its files, then its values in the order they come."""
        split = self._split(overrides) if run_mode == RunMode.RUN else None
        if split is None or not split[1]:
            return super().load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        files, values = split
        key = (config_name, tuple(files))
        if key not in self._with_hydra:
            self._with_hydra[key] = _Begun(
                super().load_configuration(
                    config_name, files, run_mode, from_shell, validate_sweep_overrides
                )
            )
        config = self._with_hydra[key].with_values(values)
        parsed = map(self._parse, overrides)
        self._note(config, [override for override in parsed if not override.is_hydra_override()])
        return config

    def run_config(
        self, config_name: str, overrides: list[str]
    ) -> tuple[DictConfig, dict[str, Any]]:
        """The config of a run, without Hydra's own node, and the file chosen from each group."""
        split = self._split(overrides)
        if split is None:
            return _without_hydra(self._of_files(config_name, overrides))
        files, values = split
        key = (config_name, tuple(files))
        if key not in self._of_runs:
            config, choices = _without_hydra(self._of_files(config_name, files))
            self._of_runs[key] = _Begun(config), choices
        begun, choices = self._of_runs[key]
        return begun.with_values(values), choices

    def _of_files(self, config_name: str, overrides: list[str]) -> DictConfig:
        return super().load_configuration(config_name, overrides, RunMode.RUN, from_shell=False)

    def _split(self, overrides: Sequence[str]) -> tuple[list[str], list[Override]] | None:
        """The overrides that choose files, and those that set values; None where what they mean
        cannot be told apart: one sweeps, or says where files lie.
        """
        parsed = [self._parse(item) for item in overrides]
        elsewhere = any(each.get_key_element() == "hydra.searchpath" for each in parsed)
        if elsewhere or any(override.is_sweep_override() for override in parsed):
            return None
        values = [override for override in parsed if self._is_value(override)]
        files = [o.input_line for o in parsed if o not in values and o.input_line is not None]
        return files, values

    def _parse(self, item: str) -> Override:
        if item not in self._parsed:
            if len(self._parsed) >= _MOST_PARSED:
                self._parsed.clear()
            (self._parsed[item],) = OverridesParser.create().parse_overrides([item])
        return self._parsed[item]

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


_Files = tuple[str | None, tuple[str, ...]]
"""The name of a config, and the overrides that choose its files."""


class _Begun:
    """A config of files, in which values can be set again and again.

    Args:
        config: of the files; it is copied. A pickle is copied in an eighth of the time.
    """

    def __init__(self, config: DictConfig) -> None:
        self._files = _Set((), _copies(config))
        self._shared = self._files
        self._before: tuple[str, ...] = ()

    def with_values(self, values: Sequence[Override]) -> DictConfig:
        """A config of its own, with these values.

        Raises:
            ConfigCompositionException: one does not fit.
        """
        lines = tuple(str(override.input_line) for override in values)
        pairs = zip(lines, self._before, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._before = lines
        begun = self._shared
        if lines[: len(begun.lines)] != begun.lines:
            begun = self._files
        config = begun.copy()
        done = len(begun.lines)
        if shared > done:
            _set(values[done:shared], config)
            self._shared = _Set(lines[:shared], _copies(config))
            done = shared
        _set(values[done:], config)
        return config


@dataclass(frozen=True)
class _Set:
    """A config in which values have been set.

    Attributes:
        lines: the overrides that did.
        copy: gives the config, each time another copy of it.
    """

    lines: tuple[str, ...]
    copy: Callable[[], DictConfig]


def _copies(config: DictConfig) -> Callable[[], DictConfig]:
    """What makes copies of a config as it is now."""
    try:
        return partial(pickle.loads, pickle.dumps(config))
    except (pickle.PicklingError, AttributeError, TypeError):
        # Hydra imports plugins twice, and a class of the first time cannot be found by its name.
        return partial(copy.deepcopy, copy.deepcopy(config))


def _set(values: Sequence[Override], config: DictConfig) -> None:
    try:
        ConfigLoaderImpl._apply_overrides_to_config(list(values), config)
    except OmegaConfBaseException as error:
        raise ConfigCompositionException().with_traceback(sys.exc_info()[2]) from error


def _without_hydra(config: DictConfig) -> tuple[DictConfig, dict[str, Any]]:
    choices: Any = OmegaConf.to_container(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return config, choices
