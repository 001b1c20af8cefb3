"""Explains errors in config files: why Hydra cannot compose a config with a chosen file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import PurePath
from typing import Any, cast, get_origin, get_type_hints

import yaml
from hydra._internal.config_repository import IConfigRepository
from hydra.core.default_element import GroupDefault
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from etude.config.schema import ROOT_KEYS, Config
from etude.config.type_names import describe_type
from etude.config.yaml_file import GLOBAL_HEADER, missing_colon
from etude.errors import Problem, RequestError, nearest, nearest_of

NOT_PARSED = (HydraException, OmegaConfBaseException, ValueError, RecursionError)
"""Exceptions of Hydra for overrides that it cannot parse; the last two for numbers that are too
long and lists that are nested too deeply."""
HYDRA_ERRORS = (*NOT_PARSED, AssertionError, TypeError, AttributeError, KeyError, IndexError,
                 yaml.YAMLError, OSError)  # fmt: skip
"""Exceptions that Hydra raises while it composes a config; built-in ones are raised if the value of
a group is not a name."""

Groups = Mapping[str, Sequence[str]]
"""The names of the files of each config group."""


def explain_choice(
    group: str, value: str, error: Exception, groups: Groups, repository: IConfigRepository
) -> Problem:
    """Returns the problem of an override that chooses a config file.

    Args:
        group: the config group, such as `model/norm`.
        value: the name of the file.
        error: the exception that Hydra raised when it composed a config with this file.
        groups: all config groups.
        repository: Hydra's access to the config files.
    """
    if value not in groups[group]:
        hint = _hint_at_file(group, value, groups, repository)
        return Problem(group, f"a file in conf/{group}/", value, hint)
    reported = re.match(r"In '?([\w/.-]+?)'?: ", str(error))
    for path in dict.fromkeys([reported[1] if reported else "", f"{group}/{value}"]):
        read = _load(repository, path)
        if read is not None and (found := next(_file_problems(path, read, groups), None)):
            return found
    if isinstance(error, MissingConfigException):
        return _missing_file(f"{group}={value}", error, groups)
    slot = re.search(r"Could not override '([^'@]+)", str(error))
    if slot is not None and slot[1] == group:
        hint = f"to add this config group, use +{group}={value}"
        expected = "a config group in a `defaults` list of the chosen files"
        return Problem(group, expected, value, hint)
    if slot is not None:
        choosing = reported[1] if reported else "another file"
        return _missing_slot(group, value, slot[1], choosing, groups, repository)
    if twice := re.match(r"(\S+) appears more than once", str(error)):
        return _chosen_twice(group, value, twice[1], repository)
    file = f"{group}/{value}.yaml"
    if isinstance(error, RecursionError):
        return Problem(file, "a `defaults` list that does not lead back to the same file")
    return Problem(file, "a config file that Hydra can compose", hint=_hint_at_error(error))


def _load(repository: IConfigRepository, path: str) -> ConfigResult | None:
    """Returns a config file, or None if it does not exist or has errors.

    The errors of a chosen file are raised when Hydra composes the config. Other files may have
    errors that do not concern the user's request.
    """
    with suppress(RequestError, *HYDRA_ERRORS):
        return repository.load_config(path)
    return None


def _hint_at_file(
    group: str, value: str, groups: Groups, repository: IConfigRepository
) -> str | None:
    """Returns a hint at the file that the user may have meant, if a file does not exist."""
    name = PurePath(value).stem
    if name in groups[group]:  # the user typed the file's path
        return f"use {group}={name}"
    top = group.split("/")[0]
    others = [each for each in groups if value in groups[each]]
    if "/" in group:  # a part of another root key is no alternative
        others = [each for each in others if each.split("/")[0] == top]
    if others:
        below = [each for each in others if each.startswith(f"{group}/")]
        return f"use {[*below, *others][0]}={value}"
    near = nearest_of(value, groups[group])
    hint = near or nearest(value, groups[group])
    if near or any(each.provider == "command-line" for each in repository.get_sources()):
        return hint
    own = "to use a file of your own, add --config-dir DIR"
    return f"{hint}; {own}" if hint else own


def _file_problems(path: str, read: ConfigResult, groups: Groups) -> Iterator[Problem]:
    """Yields the problems of a config file that Hydra does not report, or not by their cause.

    Args:
        path: path of the file without its suffix, such as `experiment/debug`.
        read: the file.
        groups: all config groups.
    """
    file, folder = f"{path}.yaml", path.rpartition("/")[0]
    header = read.header.get("package")
    package = header or folder.replace("/", ".")
    if package.split(".")[0] not in (*ROOT_KEYS, "hydra", "_global_", "_group_", ""):
        hint = f"without it, the keys of the file are set below {package}"
        first = {} if header is None else {"value": f"# @package {header}"}
        yield Problem(f"{file}, line 1", f"`{GLOBAL_HEADER}`", hint=hint, **first)
    for default in read.defaults_list or []:
        if isinstance(default, GroupDefault):
            yield from _entry_problems(f"{file}: defaults", folder, default, groups)
    if header == "_global_":
        yield from _kind_mismatches(OmegaConf.to_container(read.config), f"{file}: ")


def _entry_problems(
    where: str, folder: str, default: GroupDefault, groups: Groups
) -> Iterator[Problem]:
    """Yields a problem if an entry of a file's `defaults` list names no config group.

    Args:
        where: the file and the key, for the problem.
        folder: the config group of the file.
        default: the entry.
        groups: all config groups.
    """
    group = str(default.group)
    absolute = group.removeprefix("/")
    typed, file = _entry(default, group), default.get_name()
    if group == f"/{folder}":
        hint = "a file of the same group is named without its group"
        yield Problem(where, f"`- {file}`", typed, hint)
    elif absolute.startswith("hydra") or default.optional or _full_group(folder, group) in groups:
        return
    elif group == absolute and group in groups:
        hint = f"without the slash, the group is {folder}/{group}"
        yield Problem(where, f"`- {_entry(default, f'/{group}')}`", typed, hint)
    else:
        yield Problem(where, "an existing config group", typed, nearest(absolute, groups))


def _full_group(folder: str, group: str) -> str:
    """Returns the config group that a file in `folder` names as `group`."""
    return group.removeprefix("/") if group.startswith("/") else f"{folder}/{group}"


def _entry(default: GroupDefault, group: str) -> str:
    """Returns an entry of a `defaults` list as text, with another name of its config group."""
    return f"{'override ' if default.override else ''}{group}: {default.get_name()}"


def _missing_file(where: str, error: MissingConfigException, groups: Groups) -> Problem:
    missing = str(error.missing_cfg_file)
    folder, _, name = missing.rpartition("/")
    expected = "a config file whose `defaults` list refers only to existing files"
    choices = error.options or [*groups.get(folder, ()), "_self_"]
    return Problem(where, expected, missing, nearest(name, choices))


def _missing_slot(
    group: str,
    value: str,
    slot: str,
    choosing: str,
    groups: Groups,
    repository: IConfigRepository,
) -> Problem:
    """Returns the problem of a file that chooses from a config group which no other file has.

    For example, an experiment chooses from the group `model/head`, but its model has no head.

    Args:
        group, value: the override that chooses a file; either the experiment or the model.
        slot: the missing config group.
        choosing: path of the file that chooses from it, without its suffix.
        groups: all config groups.
        repository: Hydra's access to the config files.
    """
    owner = slot.rpartition("/")[0]
    names = _files_with(owner, slot, groups, repository)
    hints = ["the task needs an encoder, which has a head"] if slot == "model/head" else []
    if group != owner:
        if names:
            hints.append(f"to choose another {owner}, add `- override /{owner}: {names[0]}`")
        expected = f"a config group in a `defaults` list of the chosen {owner}"
        where = f"{choosing}.yaml: defaults"
        return Problem(where, expected, f"override /{slot}", "; ".join(hints) or None)
    if names:
        hints.append(f"choose from: {', '.join(names)}")
    if choosing.startswith("experiment/"):
        hints.append("to ignore the files that the experiment chooses, add '~experiment'")
    expected = (
        f"a file whose `defaults` list contains the group {slot}, because {choosing}.yaml"
        " overrides this group"
    )
    return Problem(group, expected, value, "; ".join(hints) or None)


def _files_with(group: str, slot: str, groups: Groups, repository: IConfigRepository) -> list[str]:
    """Returns the names of those files of a config group that choose a file of another group.

    Args:
        group: the config group, such as `model`.
        slot: the other config group, such as `model/norm`, which must be in the files' `defaults`
            lists.
        groups: all config groups.
        repository: Hydra's access to the config files.
    """
    files = []
    for name in groups.get(group, ()):
        read = _load(repository, f"{group}/{name}")
        listed = read.defaults_list if read is not None else None
        chosen = (getattr(default, "group", None) for default in listed or [])
        if slot.removeprefix(f"{group}/") in chosen:
            files.append(name)
    return files


def _chosen_twice(group: str, value: str, slot: str, repository: IConfigRepository) -> Problem:
    """Returns the problem of a file that chooses a second file of a group, without `override`.

    Args:
        group, value: the override that chooses the file.
        slot: a config group of which two files are chosen.
        repository: Hydra's access to the config files.
    """
    where = f"{group}/{value}.yaml: defaults"
    read = _load(repository, f"{group}/{value}")
    for default in (read.defaults_list if read is not None else None) or []:
        if isinstance(default, GroupDefault) and not default.override:
            full = _full_group(group, str(default.group))
            if slot == full or slot.startswith(f"{full}/"):
                typed = _entry(default, str(default.group))
                hint = f"another file already chooses a file of the group {full}"
                return Problem(where, f"`- override /{full}: {default.get_name()}`", typed, hint)
    return Problem(where, f"one file of the group {slot}", hint="two files are chosen")


def _kind_mismatches(tree: Any, above: str, record: type = Config) -> Iterator[Problem]:
    """Yields a problem for each value of a file whose structure differs from the schema.

    The structure of a value is list, mapping or scalar. OmegaConf refuses the whole file in this
    case, and does not report which key is wrong.

    Args:
        tree: content of the file.
        above: text before the keys in the problems: the file, and the key path of `tree`.
        record: dataclass of the schema for `tree`.
    """
    hints = get_type_hints(record)
    for key, value in tree.items() if isinstance(tree, dict) else ():
        hint = hints.get(key, Any)
        mapping = is_dataclass(hint) or get_origin(hint) is dict
        several = mapping or get_origin(hint) is list
        is_interpolation = isinstance(value, str) and ("${" in value or value == "???")
        if is_dataclass(hint) and isinstance(value, dict):
            yield from _kind_mismatches(value, f"{above}{key}.", cast(type, hint))
        elif is_interpolation or hint is Any:
            continue
        elif isinstance(value, dict) != mapping or isinstance(value, list | dict) != several:
            yield Problem(f"{above}{key}", describe_type(hint), value, missing_colon(value))


def _hint_at_error(error: Exception) -> str:
    match = re.search(r"Key '([^']+)' not in '(\w+)'", str(error))
    cause = error.__cause__ or error.__context__
    if match is None and isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {first_line(cause)}"
    if match is None:
        return first_line(error, 2)
    key, where = match.groups()
    known = ROOT_KEYS if where == "Config" else tuple(Config().run.__dataclass_fields__)
    return f"unknown key {key!r}; {nearest(key, known) or 'see conf/train.yaml'}"


def first_line(error: Exception, count: int = 1) -> str:
    """Returns the first `count` lines of an exception's message that are not empty, as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:count]) or repr(error)
