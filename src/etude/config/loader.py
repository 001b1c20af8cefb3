"""Hydra's config loader with a cache for the jobs of a sweep.

The jobs of a sweep differ mostly in values. Nearly all of the time to compose a config is spent on
reading files and ordering the defaults lists, which do not depend on values, so both are done once
per choice of files. Values are set in the order of the overrides. If the first overrides of a job
are those of the previous job, their values are not set again.
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

_MAX_PARSED = 10_000
"""Maximum number of cached overrides; a sweep may have very many."""


class CachingLoader(ConfigLoaderImpl):
    """Hydra's `ConfigLoaderImpl` with a cache; the results are the same as without it.

    A file that changes during a sweep is not read again, so all jobs use the same files.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._with_hydra: dict[_Files, _CachedConfig] = {}
        self._of_runs: dict[_Files, tuple[_CachedConfig, dict[str, Any]]] = {}
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
        """Composes the config of one job: files first, then values; see Hydra for the arguments."""
        split = self._split(overrides) if run_mode == RunMode.RUN else None
        if split is None or not split[1]:
            return super().load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        files, values = split
        key = (config_name, tuple(files))
        if key not in self._with_hydra:
            self._with_hydra[key] = _CachedConfig(
                super().load_configuration(
                    config_name, files, run_mode, from_shell, validate_sweep_overrides
                )
            )
        config = self._with_hydra[key].with_values(values)
        parsed = map(self._parse, overrides)
        self._set_overrides(
            config, [override for override in parsed if not override.is_hydra_override()]
        )
        return config

    def run_config(
        self, config_name: str, overrides: list[str]
    ) -> tuple[DictConfig, dict[str, Any]]:
        """Returns a run's config, without the key `hydra`, and a dictionary of the chosen files.

        The keys of the dictionary are config groups, and the values are names of files.
        """
        split = self._split(overrides)
        if split is None:
            return _without_hydra(self._load_files(config_name, overrides))
        files, values = split
        key = (config_name, tuple(files))
        if key not in self._of_runs:
            config, choices = _without_hydra(self._load_files(config_name, files))
            self._of_runs[key] = _CachedConfig(config), choices
        cached, choices = self._of_runs[key]
        return cached.with_values(values), choices

    def _load_files(self, config_name: str, overrides: list[str]) -> DictConfig:
        return super().load_configuration(config_name, overrides, RunMode.RUN, from_shell=False)

    def _split(self, overrides: Sequence[str]) -> tuple[list[str], list[Override]] | None:
        """Splits overrides into those that choose config files and those that set values.

        Returns:
            The list of overrides that choose files, and the list of overrides that set values. None
            if an override contains a sweep or changes Hydra's search path.
        """
        parsed = [self._parse(item) for item in overrides]
        changes_path = any(each.get_key_element() == "hydra.searchpath" for each in parsed)
        if changes_path or any(override.is_sweep_override() for override in parsed):
            return None
        values = [override for override in parsed if self._is_value(override)]
        files = [o.input_line for o in parsed if o not in values and o.input_line is not None]
        return files, values

    def _parse(self, item: str) -> Override:
        if item not in self._parsed:
            if len(self._parsed) >= _MAX_PARSED:
                self._parsed.clear()
            (self._parsed[item],) = OverridesParser.create().parse_overrides([item])
        return self._parsed[item]

    def _is_value(self, override: Override) -> bool:
        """Returns whether an override sets a value of the run's config.

        Other overrides choose a file or set one of Hydra's own keys.
        """
        if override.is_hydra_override():
            return False
        key = override.key_or_group
        if key not in self._groups:
            self._groups[key] = bool(self.repository.group_exists(key))
        return not self._groups[key] or isinstance(override.value(), dict)

    @staticmethod
    def _set_overrides(config: DictConfig, task: list[Override]) -> None:
        """Stores the overrides of a job, `task`, in the config's key `hydra`, as Hydra does."""
        config.hydra.overrides.task = [override.input_line for override in task]
        options = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            overrides=task,
            kv_sep=options.kv_sep,
            item_sep=options.item_sep,
            exclude_keys=list(options.exclude_keys),
        )


_Files = tuple[str | None, tuple[str, ...]]
"""Name of a config, and the overrides that choose its files."""


class _CachedConfig:
    """A config composed from files. A job's config is a copy of it with the job's values.

    Args:
        config: the config; it is copied. Copies are made by unpickling, which takes an eighth of
            the time of `copy.deepcopy`.
    """

    def __init__(self, config: DictConfig) -> None:
        self._files = _Snapshot((), _make_copier(config))
        self._shared = self._files
        self._before: tuple[str, ...] = ()

    def with_values(self, values: Sequence[Override]) -> DictConfig:
        """Returns a copy of the config in which the overrides `values` are set.

        Raises:
            ConfigCompositionException: a value does not match the config.
        """
        lines = tuple(str(override.input_line) for override in values)
        pairs = zip(lines, self._before, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._before = lines
        snapshot = self._shared
        if lines[: len(snapshot.lines)] != snapshot.lines:
            snapshot = self._files
        config = snapshot.copy()
        done = len(snapshot.lines)
        if shared > done:
            _set(values[done:shared], config)
            self._shared = _Snapshot(lines[:shared], _make_copier(config))
            done = shared
        _set(values[done:], config)
        return config


@dataclass(frozen=True)
class _Snapshot:
    """A config in which the first overrides of a job are set already.

    Attributes:
        lines: the overrides that are set, as text.
        copy: function that returns a new copy of the config.
    """

    lines: tuple[str, ...]
    copy: Callable[[], DictConfig]


def _make_copier(config: DictConfig) -> Callable[[], DictConfig]:
    """Returns a function that returns new copies of the config in its current state."""
    try:
        return partial(pickle.loads, pickle.dumps(config))
    except (pickle.PicklingError, AttributeError, TypeError):
        # Hydra imports plugins twice, and pickle cannot find a class of the first import by name.
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
