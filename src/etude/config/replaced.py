"""Reports values of a typed choice of files that another file of the config replaces.

In `experiment=debug model=gpt2` the experiment's file comes after GPT-2's: its `model.layers: 2`
stands, and the model is no GPT-2. Which file sets which key is read from Hydra's defaults list.
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

from etude.config.flat import flat
from etude.console import NOTICES

log = logging.getLogger(NOTICES)

_ABSENT = object()


@dataclass
class Replaced:
    """What one file replaces in one choice.

    Attributes:
        choice: as typed, such as `model=gpt2`.
        file: that replaces, such as `experiment/debug.yaml`.
        changes: one for each key: `model.layers=2 instead of 12`.
    """

    choice: str
    file: str
    changes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        changes = ", ".join(self.changes)
        way_out = f"type the keys after {self.choice}"
        if self.file.startswith("experiment/"):
            way_out = f"'~experiment' {self.choice} name=... leaves the experiment out"
        return f"{self.file} replaces values of {self.choice}: {changes} ({way_out})"


def report_replaced(*requests: Sequence[str]) -> None:
    """One line on standard error for each choice of files whose values do not all stand.

    Args:
        requests: overrides, within `etude.config.compose.searching`; what several requests have
            in common is reported once.
    """
    found: dict[str, None] = {}
    for typed in requests:
        with suppress(HydraException):  # a job that does not compose is reported as such
            found |= {str(each): None for each in replaced(typed)}
    for line in found:
        log.warning("%s", line)


def is_choice(key: str) -> bool:
    """Whether a key of an override is a config group."""
    return bool(_loader().repository.group_exists(key))


def replaced(typed: Sequence[str]) -> list[Replaced]:
    """What later files replace in the choices among `typed`; see `report_replaced`."""
    items = [item for item in typed if is_choice(_key_of(item))]
    if not {_key_of(item) for item in items} - {"experiment", "sweep"}:
        return []
    values = {_key_of(item) for item in typed if item not in items}
    files = _Files(items, values)
    found: dict[tuple[str, str], Replaced] = {}
    for override in OverridesParser.create().parse_overrides(items):
        if override.is_delete() or isinstance(override.value(), dict):
            continue
        group = override.key_or_group
        for name in override.get_value_string().strip("[]").split(","):
            choice = f"{group}={name}"
            for file, change in files.changes(group, name):
                key = (choice, file)
                found.setdefault(key, Replaced(choice, file)).changes.append(change)
    return list(found.values())


class _Files:
    """The files that a config is made of, in their order, with the values that each states.

    Args:
        choices: the overrides that choose files.
        values: the keys of those that set values.
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
        self._by_whom = {
            slot: known.containing_config_path
            for slot, known in listed.overrides.override_metadata.items()
            if not known.external_override
        }
        self._chosen = {_key_of(item) for item in choices}
        self._typed = values

    def changes(self, group: str, name: str) -> Iterator[tuple[str, str]]:
        """Files that replace something in a group's file and those it names, and what."""
        path = f"{group}/{name}"
        places = [place for place, each in enumerate(self._all) if each.config_path == path]
        if not places:
            return
        own = self._below(path)
        others = set()  # what stands in the place of a part: its values are its own
        for each in [*own]:
            part = self._replaced_part(each)
            if part is None:
                continue
            file, slot, before = part
            name = (each.config_path or "").removeprefix(f"{slot}/")
            yield f"{file}.yaml", f"{slot}={name} instead of {before}"
            for gone in self._below(each.config_path or ""):
                own.remove(gone)
                others |= set(self._values(gone))
                if gone.package != self._all[places[-1]].package:
                    others.add(str(gone.package))
        stated: dict[str, Any] = {}
        for each in own:
            stated |= self._values(each)
        package = self._all[places[-1]].package
        beside = f"{group}/"  # of `logger=[wandb,tensorboard]`, the other
        after = self._all[places[-1] + 1 :]
        later = [each for each in after if not str(each.config_path).startswith(beside)]
        for each in later:
            for key, value in self._values(each).items():
                inside = bool(package) and key.startswith(f"{package}.")
                taken = self._is_typed(key) or any(_is_below(key, other) for other in others)
                if taken or not (inside or key in stated):
                    continue
                before = stated.get(key, _ABSENT)
                if before not in (value, "???"):
                    change = f"{key}={_shown(value)} instead of {_shown(before)}"
                    yield f"{each.config_path}.yaml", change

    def _below(self, path: str) -> list[ResultDefault]:
        """A file, and those that its defaults list names, and so on."""
        found = [each for each in self._all if each.config_path == path]
        for each in self._all:
            if each.parent == path and each.config_path != path:
                found += self._below(each.config_path or "")
        return sorted(found, key=self._all.index)

    def _replaced_part(self, each: ResultDefault) -> tuple[str, str, str] | None:
        """The file that chose `each` for a slot, the slot, and what the slot's owner chose."""
        slot, owner = each.override_key, each.parent
        if slot is None or owner is None or slot not in self._by_whom or slot in self._chosen:
            return None
        read = self._repository.load_config(owner)
        group = slot.removeprefix(f"{owner.rpartition('/')[0]}/")
        for default in read.defaults_list if read is not None else []:
            if isinstance(default, GroupDefault) and default.group == group:
                chosen = str(default.value)
                if f"{slot}/{chosen}" != each.config_path:
                    return str(self._by_whom[slot]), slot, chosen
        return None

    def _values(self, each: ResultDefault) -> dict[str, Any]:
        """Each value that a file states, by its whole key."""
        read = self._repository.load_config(str(each.config_path))
        if read is None or each.config_path == "schema":
            return {}
        plain = OmegaConf.to_container(read.config, resolve=False)
        return dict(flat(cast(dict[str, Any], plain), str(each.package or "")))

    def _is_typed(self, key: str) -> bool:
        return any(_is_below(key, typed) for typed in self._typed)


def _loader() -> Any:
    return GlobalHydra.instance().config_loader()


def _key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _is_below(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.")


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "the default"
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
