"""Composes configs from overrides with Hydra; reports all errors in the overrides at once."""

from __future__ import annotations

import importlib
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

import yaml
from hydra import version
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper

from etude.config import environment  # noqa: F401 (registers its own `oc.env`)
from etude.config.equivalents import (
    MISPLACED,
    equivalent_of,
    own_file_hint,
    plugin_of,
    suggest_sweep,
)
from etude.config.file_errors import HYDRA_ERRORS, NOT_PARSED, explain_choice, first_line
from etude.config.loader import CachingLoader
from etude.config.paths import check_current_folder, conf_dir
from etude.config.replacements import report_replaced
from etude.config.schema import NODES, ROOT_KEYS, Config
from etude.config.type_names import describe_type, takes_list
from etude.config.yaml_file import strict_files
from etude.errors import Problem, RequestError, nearest, nearest_of
from etude.secrets import mask_record

HYDRA_VERSION_BASE = "1.3"
_QUOTE = "quote a value that contains commas or spaces: 'key=\"one, two\"'"
_FULL_WIDTH = {"＝": "=", "，": ",", "［": "[", "］": "]", "：": ":", "–": "-", "—": "--"}
"""Characters that input methods and word processors write for those of an override."""
_IGNORED = ("hydra.run.dir", "hydra.sweep.dir")
"""Keys of Hydra that do not affect a run of Étude."""

_BRACKETS = {"(": ")", "[": "]", "{": "}"}

ConfigStore.instance().store(name="schema", node=Config)

_hydra_in_use = threading.RLock()


def _after_fork() -> None:
    """Replaces the lock of Hydra's state in a forked process.

    Another thread may have held the lock during the fork. That thread does not exist in the forked
    process, so it would never release the lock.
    """
    global _hydra_in_use
    _hydra_in_use = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


def compose(
    overrides: Sequence[str] | str = (), *, config_dir: str | Path | None = None
) -> DictConfig:
    """Returns the config that `etude train OVERRIDES` would run.

    Args:
        overrides: Hydra overrides, a list or one string that is split at spaces.
        config_dir: folder with the user's configs, searched before the shipped ones.

    Raises:
        RequestError: the overrides, or the files that they choose, have errors; the exception
            contains all of them.
    """
    typed = overrides.split() if isinstance(overrides, str) else list(overrides)
    typed = [quote_unicode(item) for item in typed]
    with search_configs(config_dir):
        config = compose_in_search(typed)
        report_replaced(typed)
    return config


def compose_in_search(typed: Sequence[str]) -> DictConfig:
    """Returns the config that the overrides `typed` describe.

    Must be called inside the context manager `search_configs`, in which each config file is read
    only once, even if many configs are composed.

    Raises:
        RequestError: as for `compose`.
    """
    ignored = [item for item in typed if item.partition("=")[0] in _IGNORED]
    if ignored:
        expected = "no value, because Étude chooses the folders of runs and sweeps"
        hint = "to choose the folder of all runs, set run.root=DIR"
        raise RequestError(
            Problem(key, expected, value, hint)
            for key, _, value in (item.partition("=") for item in ignored)
        )
    try:
        config = _compose(typed)
    except HYDRA_ERRORS as error:
        problems, good = find_invalid(typed, error)
        groups = _groups()
        if not any(p.where in groups or "/" in p.where for p in problems):  # all files are known
            reported = {problem.where for problem in problems}
            problems += [p for p in _check_composed(good) if p.where not in reported]
        raise RequestError(problems) from error
    return config


def set_overrides_and_choices(
    config: DictConfig, choices: Mapping[str, Any], typed: Sequence[str]
) -> None:
    """Sets `run.overrides` and `run.choices` of a config to its overrides and its chosen files.

    Args:
        config: the config to change.
        choices: dictionary from each config group to the name of the file that Hydra chose.
        typed: all overrides; the function leaves out those that set Hydra's own keys.

    Raises:
        RequestError: the config already sets one of these keys, or `init_from.found`.
    """
    reserved = {
        f"{node}.{key}": config[node][key]
        for node, key in (("run", "overrides"), ("run", "choices"), ("init_from", "found"))
    }
    non_empty = {path: value for path, value in reserved.items() if value}
    if non_empty:
        hint = "the key is set automatically"
        raise RequestError(
            Problem(path, "no value", str(value), hint) for path, value in non_empty.items()
        )
    config.run.overrides = [literal(item) for item in typed if not is_hydra_override(item)]
    config.run.choices = chosen(choices, typed)


def literal(text: str) -> str:
    """Escapes a text as a literal config value: `${...}` in it is not an interpolation.

    Example:
        >>> OmegaConf.create({"typed": literal("model.dim=${vars.width}")}).typed
        'model.dim=${vars.width}'
    """
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


@contextmanager
def search_configs(config_dir: str | Path | None) -> Iterator[Hydra]:
    """Context manager in which Hydra searches config files in `config_dir` and in the shipped
    configs.

    Yields the Hydra instance, and restores the previous instance on exit. Hydra's state is global
    to the process, so other threads that need it wait until the exit.
    """
    check_current_folder()
    folder = Path(config_dir).resolve() if config_dir else None
    if folder is not None and not folder.is_dir():
        raise RequestError(
            Problem("config_dir", "an existing folder with config files", str(config_dir))
        )
    path = create_config_search_path(str(conf_dir()))
    if folder is not None:
        path.prepend("command-line", f"file://{folder}", anchor="schema")
    with _hydra_in_use, strict_files():
        instance = GlobalHydra.instance()
        before, instance.hydra = instance.hydra, None
        version.setbase(HYDRA_VERSION_BASE)
        try:
            hydra_ = Hydra(task_name="etude", config_loader=CachingLoader(path))
            instance.initialize(hydra_)
            yield hydra_
        finally:
            instance.hydra = before


def _compose(overrides: Sequence[str]) -> DictConfig:
    typed = [add_plus_signs(item) for item in overrides]
    config, choices = _loader().run_config("train", typed)
    if removed := [key for key in ROOT_KEYS if key not in config.keys()]:  # noqa: SIM118
        hint = "every config needs this key"
        raise RequestError(
            Problem(f"~{key}", "a key that can be removed", hint=hint) for key in removed
        )
    set_overrides_and_choices(config, choices, overrides)
    return config


def _loader() -> CachingLoader:
    """Returns Hydra's current config loader, which `search_configs` has set up."""
    return cast(CachingLoader, GlobalHydra.instance().config_loader())


def chosen(choices: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, str]:
    """Returns a dictionary from each config group, such as `model`, to the name of its chosen file.

    Hydra's own groups, groups without a chosen file, and groups whose class is overridden
    (`model.norm._target_=...`) are omitted.

    Args:
        choices: the file that Hydra chose from each config group (`hydra.runtime.choices`).
        overrides: the overrides.
    """
    keys = [item.lstrip("+").partition("=")[0] for item in overrides]
    overridden = {key.removesuffix("._target_") for key in keys if key.endswith("._target_")}
    return {
        group: ",".join(choice) if isinstance(choice, list | ListConfig) else str(choice)
        for group, choice in choices.items()
        if choice is not None
        and not group.startswith("hydra")
        and group.replace("/", ".") not in overridden
    }


def add_plus_signs(override: str) -> str:
    """Returns an override with the `++` that Hydra needs: `++model.dim=8` for `model.dim=8`.

    Keys below `model`, `data` and the like are arguments of a constructor, which defines the valid
    keys. So users need not type a `+` for arguments that the config file omits. `init_from=X` is
    returned as `init_from.source=X`, and `init_from.freeze=X` as `init_from.freeze=[X]` unless X
    contains a `[`. Overrides of other keys are returned unchanged.
    """
    key = override.split("=", 1)[0]
    if key == "init_from":
        return override.replace("init_from", "init_from.source", 1)
    if key == "init_from.freeze" and "[" not in override:
        return f"{key}=[{override.partition('=')[2]}]"
    inside = key.split(".")[0] in (*NODES, "callbacks", "logger", "vars") and "." in key
    return f"++{override}" if inside and "=" in override and "/" not in key else override


def quote_unicode(override: str) -> str:
    """Adds quotes to an override's value if Hydra rejects its non-ASCII characters.

    Overrides whose values contain more of Hydra's syntax than a list (sweeps, quotes,
    interpolations) are returned unchanged.

    Example:
        >>> quote_unicode("run.notes=第一次")
        "run.notes='第一次'"
        >>> quote_unicode("run.tags=[基线,b]")
        "run.tags=['基线',b]"
    """
    key, equals, value = override.partition("=")
    is_list = value.startswith("[") and value.endswith("]")
    items = value[1:-1].split(",") if is_list else [value]
    if not equals or value.isascii() or any(sign in "".join(items) for sign in "'\"\\[]{}()$,"):
        return override
    try:
        OverridesParser.create().parse_override(override)
    except NOT_PARSED:
        quoted = [item if item.isascii() else f"'{item.strip()}'" for item in items]
        return f"{key}=[{','.join(quoted)}]" if is_list else f"{key}={quoted[0]}"
    return override


def is_hydra_override(override: str) -> bool:
    """Returns whether an override sets or adds one of Hydra's own keys (`+hydra.x=1`)."""
    return override.lstrip("+~").startswith("hydra.")


def remove_plus_signs(override: str) -> str:
    """Removes the `+` or `++` at the start of an override; see `add_plus_signs`.

    Overrides of Hydra's own keys, such as `hydra.job.name`, are returned unchanged.
    """
    return override if is_hydra_override(override) else override.lstrip("+")


def job_overrides(overrides: Iterable[str]) -> list[str]:
    """Returns the overrides that do not set Hydra's own keys, such as `hydra.job.name`.

    The `+` or `++` at the start of an override is removed.
    """
    return [remove_plus_signs(item) for item in overrides if not is_hydra_override(item)]


def find_invalid(overrides: Sequence[str], error: Exception) -> tuple[list[Problem], list[str]]:
    """Returns a list of problems, one for each invalid override, and the list of the valid
    overrides.

    To find the invalid overrides, a config is composed with each override and the valid overrides
    before it.

    Args:
        overrides: the overrides.
        error: the exception that Hydra raised for all overrides together.
    """
    problems: list[Problem] = []
    good: list[str] = []
    groups_first = sorted(overrides, key=lambda item: "." in item.split("=", 1)[0])
    for item in groups_first:
        try:
            _compose([*good, item])
            good.append(item)
        except HYDRA_ERRORS as reason:
            problems.append(_explain(item, reason))
    fallback = Problem("config", "a config that Hydra can compose", hint=first_line(error))
    return problems or [fallback], good


def _check_composed(good: Sequence[str]) -> list[Problem]:
    """Checks the keys, types, values and data files of a run; returns the problems.

    `good` are the run's overrides, all of which Hydra accepts.
    """
    # A higher layer, which this module cannot import at its top.
    build = importlib.import_module("etude.training.build")
    try:
        build.build_parts(build.check_all(_compose(good)), check_data=True)
    except RequestError as error:
        return error.problems
    return []


def _explain(item: str, error: Exception) -> Problem:
    if item == "=":
        return Problem(item, "KEY=VALUE without spaces around =")
    if "=" not in item and not item.startswith("~"):
        typed = "".join(_FULL_WIDTH.get(sign, sign) for sign in item)
        if typed == item and item.partition(":")[0] in (*ROOT_KEYS, *_groups()):
            typed = item.replace(":", "=", 1)
        usage = own_file_hint(item) or _hint_at_name(item)
        return Problem(item, "KEY=VALUE", hint=usage if typed == item else f"type {typed}")
    try:
        override: Override = OverridesParser.create().parse_override(add_plus_signs(item))
    except NOT_PARSED as parse_error:
        key, _, value = item.partition("=")
        reason = str(parse_error)
        if isinstance(parse_error, HydraException):
            spaced = key != key.strip() or value != value.strip()
            reason = "remove the spaces around =" if spaced else _unclosed(value) or _QUOTE
        if not key.isascii():
            return Problem(key, "a key of the config", value)
        return Problem(key, "a value in Hydra's override syntax", value, reason)
    if override.is_sweep_override():
        name, _, values = item.partition("=")
        sweep = "to sweep over several values, add multirun=True to etude.plan; "
        sweep += f"for a list, type '{name}=[{values}]'; "
        return Problem(item, "one value", hint=sweep + _QUOTE)
    key, value = override.key_or_group, item.partition("=")[2]
    top, *rest = re.split(r"([./])", key, maxsplit=1)
    groups = _groups()
    if (plugin := plugin_of(key, value)) is not None:
        return Problem(key, "an installed plugin of Hydra", value, plugin)
    if key in groups:
        return explain_choice(key, value, error, groups, _repository())
    if "/" in key:
        from etude.config.suggestions import is_key  # heavy: it imports constructors

        dotted = key.replace("/", ".")
        value_hint = f"use {dotted}={value}" if is_key(dotted, _compose([])) else None
        return Problem(key, "a config group", value, value_hint or nearest(key, groups))
    if top == "hydra":
        return Problem(key, "a key of Hydra's config", value, _hint_at_hydra_key(key, error))
    if top not in ROOT_KEYS:
        choices = {"".join([known, *rest]) for known in (*ROOT_KEYS, *groups) if "/" not in known}
        from etude.config.suggestions import suggest_node  # heavy: it imports constructors

        known_key = None if rest else suggest_node(key, _compose([]))
        hint = known_key or equivalent_of(key, value) or nearest(key, choices)
        return Problem(key, "a key of the config", value, hint)
    record: type = Config
    *path, name = key.split(".")
    for field in path:
        below = get_type_hints(record).get(field)
        if not is_dataclass(below):  # the schema does not define keys below this one
            expected = "an override that matches the config"
            return Problem(key, expected, value, first_line(error))
        record = cast(type, below)
    return _explain_field(key, name, value, record)


def _repository() -> IConfigRepository:
    return cast(IConfigRepository, _loader().repository)


def _explain_field(path: str, name: str, value: str, record: type) -> Problem:
    hints = get_type_hints(record)
    if name not in hints:
        above = path.rpartition(".")[0] or "the config"
        near = equivalent_of(path, value) if path in MISPLACED else nearest_of(name, hints)
        if near is None and not path.startswith("init_from."):
            near = equivalent_of(path, value)
        return Problem(path, f"a key of {above}", value, near or nearest(name, hints))
    expected = describe_type(hints[name])
    return Problem(
        path, expected, value, None if takes_list(hints[name]) else suggest_sweep(path, value)
    )


def _hint_at_name(item: str) -> str:
    """Returns a hint for an override without `=`; it may be a key, or the name of a config file."""
    groups = _groups()
    if item in (*ROOT_KEYS, *groups):
        return f"type {item}=VALUE"
    found = [group for group, names in groups.items() if item in names]
    if found:
        group = "experiment" if "experiment" in found else found[0]
        return f"did you mean {group}={item}?"
    usage = "for example optimizer.lr=1e-3; quote a value that contains spaces: "
    return f"{usage}'run.notes=\"a b\"'"


def _hint_at_hydra_key(key: str, error: Exception) -> str:
    """Returns a hint at the most similar one of Hydra's keys, or else Hydra's message."""
    config = _loader().load_configuration("train", [], RunMode.MULTIRUN, from_shell=False)
    above, _, name = key.rpartition(".")
    node = OmegaConf.select(config, above)
    known = list(map(str, node)) if isinstance(node, DictConfig) else [name]
    return (None if name in known else nearest(name, known)) or first_line(error)


def _unclosed(value: str) -> str | None:
    """Returns a hint at the bracket or quotation mark that a value does not close, if there is one.

    Brackets in quotation marks are ignored.
    """
    opened: list[str] = []
    quote = ""
    escaped = False
    for sign in value:
        if escaped or sign == "\\":
            escaped = not escaped
        elif quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in _BRACKETS:
            opened.append(sign)
        elif opened and sign == _BRACKETS[opened[-1]]:
            opened.pop()
    if quote == "'":
        return "the quotation mark ' is not closed; a text with an apostrophe needs double quotes"
    if quote:
        return f"the quotation mark {quote} is not closed"
    return f"the bracket {opened[-1]} is not closed" if opened else None


def _groups() -> dict[str, list[str]]:
    """Returns a dictionary from each config group to the names of its files."""
    loader = _loader()
    groups: dict[str, list[str]] = {}

    def visit(group: str) -> None:
        names = [n for n in loader.get_group_options(group) if n != "schema"] if group else []
        if names:
            groups[group] = names
        for sub in loader.list_groups(group):
            if sub not in ("hydra", "", "paper"):  # papers are not part of a run's config
                visit(f"{group}/{sub}" if group else sub)

    visit("")
    return groups


def plain_yaml(config: DictConfig) -> str:
    """Returns a config as YAML text without secrets; interpolations are not resolved.

    Values from the environment stay references, and passwords in URLs are masked.
    """
    written = mask_record(OmegaConf.to_container(config, resolve=False))
    text: str = yaml.dump(
        written, allow_unicode=True, sort_keys=False, Dumper=get_omega_conf_dumper()
    )
    return text
