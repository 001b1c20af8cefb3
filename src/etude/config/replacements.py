"""Reports values of a chosen file that another file of the config replaces.

In `experiment=debug model=gpt2`, the experiment's file is merged after GPT-2's file, so its
`model.layers: 2` replaces the value 12, and the model is not GPT-2. Hydra's defaults list shows
which file sets which key.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from hydra.core.default_element import GroupDefault, ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from etude.config.flattening import flatten
from etude.console import NOTICES

log = logging.getLogger(NOTICES)

_ABSENT = object()


@dataclass
class Replacement:
    """The values of one chosen file that another file replaces.

    Attributes:
        choice: the override, such as `model=gpt2`.
        file: the file that replaces the values, such as `experiment/debug.yaml`.
        changes: descriptions, one per key, such as `model.layers=2 instead of 12`.
    """

    choice: str
    file: str
    changes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        changes = ", ".join(self.changes)
        hint = "to restore a value, add an override that sets it"
        if self.file.startswith("experiment/"):
            hint = f"to drop the experiment, use '~experiment' {self.choice} name=..."
        return f"{self.file} replaces values of {self.choice}: {changes} ({hint})"


def report_replaced(*requests: Sequence[str]) -> None:
    """Logs a warning for each chosen config file if another file replaces some of its values.

    To be called inside `etude.config.compose.search_configs`.

    Args:
        requests: lists of overrides, one per config; equal warnings are logged once.
    """
    lines: dict[str, None] = {}
    for typed in requests:
        with suppress(HydraException):  # jobs that do not compose are reported elsewhere
            lines |= {str(each): None for each in find_replaced(typed)}
    for line in lines:
        log.warning("%s", line)


def is_choice(key: str) -> bool:
    """Returns whether the key of an override is a config group, so that the override chooses a
    file.
    """
    return bool(_loader().repository.group_exists(key))


def find_replaced(typed: Sequence[str]) -> list[Replacement]:
    """Returns a `Replacement` for each chosen config file and each file that replaces its values.

    `typed` are the overrides; files are chosen by overrides such as `model=gpt2`.
    """
    items = [item for item in typed if is_choice(_key_of(item))]
    if not {_key_of(item) for item in items} - {"experiment", "sweep"}:
        return []
    values = {_key_of(item) for item in typed if item not in items}
    files = _Files(items, values)
    replacements: dict[tuple[str, str], Replacement] = {}
    for override in OverridesParser.create().parse_overrides(items):
        if override.is_delete() or isinstance(override.value(), dict):
            continue
        group = override.key_or_group
        for name in override.get_value_string().strip("[]").split(","):
            choice = f"{group}={name}"
            for file, change in files.changes(group, name):
                key = (choice, file)
                replacements.setdefault(key, Replacement(choice, file)).changes.append(change)
    return list(replacements.values())


class _Files:
    """The files of which a config is composed, in the order in which they are merged.

    Args:
        choices: the overrides that choose files.
        values: the keys of the overrides that set values; a value that the user overrides is not
            reported.
    """

    def __init__(self, choices: Sequence[str], values: Collection[str]) -> None:
        loader = _loader()
        listed = loader.compute_defaults_list("train", list(choices), RunMode.RUN)
        self._repository = loader.repository
        self._all: list[ResultDefault] = [
            each
            for each in listed.defaults
            if each.config_path and not each.config_path.startswith("hydra/")
        ]
        self._chosen_by = {
            slot: known.containing_config_path
            for slot, known in listed.overrides.override_metadata.items()
            if not known.external_override
        }
        self._chosen_groups = {_key_of(item) for item in choices}
        self._typed = values

    def changes(self, group: str, name: str) -> Iterator[tuple[str, str]]:
        """Yields each value of the chosen file `group`/`name` that another config file replaces.

        A value is yielded as the path of the other file, and a text such as `model.layers=2 instead
        of 12`. The chosen file's values include those of the files in its defaults list.
        """
        path = f"{group}/{name}"
        indices = [index for index, each in enumerate(self._all) if each.config_path == path]
        if not indices:
            return
        own = self._below(path)
        others = set()  # values of replaced files are not reported again one by one
        for each in [*own]:
            part = self._replaced_part(each)
            if part is None:
                continue
            file, slot, before = part
            name = (each.config_path or "").removeprefix(f"{slot}/")
            yield f"{file}.yaml", f"{slot}={name} instead of {before}"
            for removed in self._below(each.config_path or ""):
                own.remove(removed)
                others |= set(self._values(removed))
                if removed.package != self._all[indices[-1]].package:
                    others.add(str(removed.package))
        values: dict[str, Any] = {}
        for each in own:
            values |= self._values(each)
        package = self._all[indices[-1]].package
        if package != group.replace("/", "."):  # such as `model` for the file model/head/none.yaml
            package = None
        same_group = f"{group}/"  # the other file of `logger=[wandb,tensorboard]`
        after = self._all[indices[-1] + 1 :]
        later = [each for each in after if not str(each.config_path).startswith(same_group)]
        for each in later:
            for key, value in self._values(each).items():
                inside = bool(package) and key.startswith(f"{package}.")
                is_excluded = self._is_typed(key) or any(_is_below(key, other) for other in others)
                if is_excluded or not (inside or key in values):
                    continue
                before = values.get(key, _ABSENT)
                if before not in (value, "???"):
                    change = f"{key}={_format(value)} instead of {_format(before)}"
                    yield f"{each.config_path}.yaml", change

    def _below(self, path: str) -> list[ResultDefault]:
        """Returns the file at `path` and, recursively, the files in its defaults list, in merge
        order.

        `path` is relative to the folder of configs and has no suffix, such as `model/gpt2`.
        """
        files = [each for each in self._all if each.config_path == path]
        for each in self._all:
            if each.parent == path and each.config_path != path:
                files += self._below(each.config_path or "")
        return sorted(files, key=self._all.index)

    def _replaced_part(self, each: ResultDefault) -> tuple[str, str, str] | None:
        """Returns which file replaced an entry of a defaults list, and the original entry.

        Args:
            each: the file that is used now instead of the original entry.

        Returns:
            The file that replaced the entry, the config group, and the original file of the group.
            None if the entry was not replaced.
        """
        slot, owner = each.override_key, each.parent
        if (
            slot is None
            or owner is None
            or slot not in self._chosen_by
            or slot in self._chosen_groups
        ):
            return None
        read = self._repository.load_config(owner)
        group = slot.removeprefix(f"{owner.rpartition('/')[0]}/")
        for default in read.defaults_list if read is not None else []:
            if isinstance(default, GroupDefault) and default.group == group:
                chosen = str(default.value)
                if f"{slot}/{chosen}" != each.config_path:
                    return str(self._chosen_by[slot]), slot, chosen
        return None

    def _values(self, each: ResultDefault) -> dict[str, Any]:
        """Returns a dictionary from full key paths to the values that a config file sets."""
        read = self._repository.load_config(str(each.config_path))
        if read is None or each.config_path == "schema":
            return {}
        plain = OmegaConf.to_container(read.config, resolve=False)
        return dict(flatten(cast(dict[str, Any], plain), str(each.package or "")))

    def _is_typed(self, key: str) -> bool:
        return any(_is_below(key, typed) for typed in self._typed)


def _loader() -> Any:
    return GlobalHydra.instance().config_loader()


def _key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _is_below(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.")


def _format(value: Any) -> str:
    if value is _ABSENT:
        return "the default"
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
