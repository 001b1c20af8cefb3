"""From overrides to a config, by Hydra; every mistake in the overrides is reported at once."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast, get_origin, get_type_hints

import yaml
from hydra import version
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.errors import OmegaConfBaseException

from etude.config import environment  # noqa: F401 (whose `oc.env` notes what it gives)
from etude.config.describe import describe
from etude.config.loader import RememberingLoader
from etude.config.paths import check_current_folder, conf_dir
from etude.config.replaced import report_replaced
from etude.config.schema import NODES, ROOT_KEYS, Config
from etude.config.yaml_file import strict_files
from etude.errors import Problem, RequestError, nearest
from etude.secrets import without_secrets

HYDRA_VERSION_BASE = "1.3"
_QUOTE = "quote a text with commas or spaces: 'key=\"one, two\"'"
NOT_PARSED = (HydraException, OmegaConfBaseException, ValueError, RecursionError)
"""What Hydra raises of overrides that it cannot read: the last two of numbers too long and lists
too deep.
"""
HYDRA_ERRORS = (*NOT_PARSED, AssertionError, TypeError, AttributeError, KeyError, IndexError,
                 yaml.YAMLError, OSError)  # fmt: skip
"""What Hydra raises while composing: the builtin ones of groups with values that are no names."""

ConfigStore.instance().store(name="schema", node=Config)

_hydra_in_use = threading.RLock()


def _after_fork() -> None:
    """A forked job has Hydra's state for itself; the thread that held the lock is not there."""
    global _hydra_in_use
    _hydra_in_use = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


def compose(
    overrides: Sequence[str] | str = (), *, config_dir: str | Path | None = None
) -> DictConfig:
    """The config that `etude train OVERRIDES` would run.

    Args:
        overrides: in Hydra's grammar, a list or one string of overrides without spaces in them.
        config_dir: a folder of one's own configs, searched beside the shipped ones.

    Raises:
        RequestError: with every mistake in the overrides and in the files they name.
    """
    typed = overrides.split() if isinstance(overrides, str) else list(overrides)
    with searching(config_dir):
        config = composed(typed)
        report_replaced(typed)
    return config


def composed(typed: Sequence[str]) -> DictConfig:
    """`compose`, within `searching`: many configs then share one reading of the files."""
    try:
        config = _compose(typed)
    except HYDRA_ERRORS as error:
        problems, good = blame(typed, error)
        if all("." in problem.where for problem in problems):  # the files are those meant
            problems += _further(good)
        raise RequestError(problems) from error
    return config


def fill_in(config: DictConfig, choices: Mapping[str, Any], typed: Sequence[str]) -> None:
    """States in a config what was typed and which files were chosen.

    Args:
        choices: as for `chosen`.

    Raises:
        RequestError: the config states that itself, or what `init_from` found.
    """
    filled = {
        f"{node}.{key}": config[node][key]
        for node, key in (("run", "overrides"), ("run", "choices"), ("init_from", "found"))
    }
    stated = {path: value for path, value in filled.items() if value}
    if stated:
        expected = "nothing here: it is filled in when the run begins"
        raise RequestError(Problem(path, expected, str(value)) for path, value in stated.items())
    config.run.overrides = [literal(item) for item in typed if not of_hydra(item)]
    config.run.choices = chosen(choices, typed)


def literal(text: str) -> str:
    """The text as a config's value that stands for itself, whatever `${...}` there is in it.

    Example:
        >>> OmegaConf.create({"typed": literal("model.dim=${vars.width}")}).typed
        'model.dim=${vars.width}'
    """
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


@contextmanager
def searching(config_dir: str | Path | None) -> Iterator[Hydra]:
    """A Hydra that finds the shipped configs and those in `config_dir`.

    Whatever Hydra a program had set up before is back afterwards. Hydra's state belongs to the
    whole process: another thread that wants it meanwhile waits.
    """
    check_current_folder()
    folder = Path(config_dir).resolve() if config_dir else None
    if folder is not None and not folder.is_dir():
        raise RequestError(Problem("--config-dir", "a folder of configs", str(config_dir)))
    path = create_config_search_path(str(conf_dir()))
    if folder is not None:
        path.prepend("command-line", f"file://{folder}", anchor="schema")
    with _hydra_in_use, strict_files():
        instance = GlobalHydra.instance()
        before, instance.hydra = instance.hydra, None
        version.setbase(HYDRA_VERSION_BASE)
        try:
            hydra_ = Hydra(task_name="etude", config_loader=RememberingLoader(path))
            instance.initialize(hydra_)
            yield hydra_
        finally:
            instance.hydra = before


def _compose(overrides: Sequence[str]) -> DictConfig:
    typed = [addable(item) for item in overrides]
    config, choices = _loader().run_config("train", typed)
    if left_out := [key for key in ROOT_KEYS if key not in config.keys()]:  # noqa: SIM118
        expected = "a key that stays: every config has it"
        raise RequestError(Problem(f"~{key}", expected) for key in left_out)
    fill_in(config, choices, overrides)
    return config


def _loader() -> RememberingLoader:
    """That of `searching`."""
    return cast(RememberingLoader, GlobalHydra.instance().config_loader())


def chosen(choices: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, str]:
    """The file chosen from each group, as Hydra tells it in its own node of the config
    (`hydra.runtime.choices`).

    A group whose class was then set by hand (`model.norm._target_=...`) is left out.
    """
    keys = [item.lstrip("+").partition("=")[0] for item in overrides]
    by_hand = {key.removesuffix("._target_") for key in keys if key.endswith("._target_")}
    return {
        group: ",".join(choice) if isinstance(choice, list | ListConfig) else str(choice)
        for group, choice in choices.items()
        if choice is not None
        and not group.startswith("hydra")
        and group.replace("/", ".") not in by_hand
    }


def addable(override: str) -> str:
    """`model.bias=false` as `++model.bias=false`: a file need not list every argument.

    Keys below a node are arguments of its constructor, whose signature says which exist, so
    Hydra need not insist on a `+`. Everything else is returned as it is.
    """
    key = override.split("=", 1)[0]
    if key == "init_from":
        return override.replace("init_from", "init_from.source", 1)
    if key == "init_from.freeze" and "[" not in override:
        return f"{key}=[{override.partition('=')[2]}]"
    inside = key.split(".")[0] in (*NODES, "callbacks", "logger", "vars") and "." in key
    return f"++{override}" if inside and "=" in override and "/" not in key else override


def of_hydra(override: str) -> bool:
    """Whether an override sets one of Hydra's own keys, also one that is added (`+hydra.x=1`)."""
    return override.lstrip("+~").startswith("hydra.")


def unmarked(override: str) -> str:
    """The override without the `+` that `addable` puts back; those of Hydra's keys keep theirs."""
    return override if of_hydra(override) else override.lstrip("+")


def of_the_job(overrides: Iterable[str]) -> list[str]:
    """A job's overrides without Hydra's own."""
    return [unmarked(item) for item in overrides if not of_hydra(item)]


def blame(overrides: Sequence[str], error: Exception) -> tuple[list[Problem], list[str]]:
    """Which overrides are wrong, and why, and the others.

    Each is tried beside those already found good.
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
    fallback = Problem("config", "a config that composes", hint=_first_line(error))
    return problems or [fallback], good


def _further(good: Sequence[str]) -> list[Problem]:
    """What the constructors say of the overrides that Hydra takes, told in the same breath."""
    from etude.config.checks import check  # heavy: it imports what the config names

    try:
        check(_compose(good))
    except RequestError as error:
        return error.problems
    return []


def _explain(item: str, error: Exception) -> Problem:
    if "=" not in item and not item.startswith("~"):
        return Problem(item, "KEY=VALUE", hint="for example optimizer.lr=1e-3")
    try:
        override: Override = OverridesParser.create().parse_override(addable(item))
    except NOT_PARSED as wrong:
        why = _QUOTE if isinstance(wrong, HydraException) else str(wrong)
        key, _, value = item.partition("=")
        return Problem(key, "a value in Hydra's grammar", value, why)
    if override.is_sweep_override():
        return Problem(item, "one value", hint=f"-m sweeps over several; {_QUOTE}")
    key, value = override.key_or_group, item.partition("=")[2]
    top, *rest = re.split(r"([./])", key, maxsplit=1)
    groups = _groups()
    if key in groups:
        return _explain_choice(key, value, groups, error)
    if "/" in key:
        return Problem(key, "a config group", value, nearest(key, groups))
    if top == "hydra":  # its own launchers and sweepers
        return Problem(key, "a setting that Hydra has", value, _first_line(error))
    if top not in ROOT_KEYS:
        choices = {"".join([known, *rest]) for known in (*ROOT_KEYS, *groups) if "/" not in known}
        from etude.config.hints import argument_of_a_node  # heavy: it imports constructors

        hint = None if rest else argument_of_a_node(key, _compose([]))
        return Problem(key, "a key of the config", value, hint or nearest(key, choices))
    record: type = Config
    *path, name = key.split(".")
    for field in path:
        below = get_type_hints(record).get(field)
        if not is_dataclass(below):  # no more is fixed about its keys
            expected = "an override that fits the config"
            return Problem(key, expected, value, _first_line(error))
        record = cast(type, below)
    return _explain_field(key, name, value, record)


def _explain_choice(
    group: str, value: str, groups: dict[str, list[str]], error: Exception
) -> Problem:
    if value not in groups[group]:
        return Problem(group, f"a file in conf/{group}/", value, nearest(value, groups[group]))
    if isinstance(error, MissingConfigException):
        expected = "a file that names files which exist"
        return Problem(f"{group}={value}", expected, error.missing_cfg_file)
    slot = re.search(r"Could not override '([^'@]+)", str(error))
    if slot is not None and slot[1] == group:
        hint = f"+{group}={value} adds it"
        return Problem(group, "a slot that the chosen files have", value, hint)
    if slot is not None:
        hint = f"such as {', '.join(_files_with(group, slot[1]))}"
        if "In 'experiment/" in str(error):
            hint += "; '~experiment' leaves out what the experiment chooses"
        return Problem(group, f"a file that lists {slot[1]}, which another file sets", value, hint)
    file = f"{group}/{value}.yaml"
    read = _repository().load_config(f"{group}/{value}")
    if read is not None and read.header.get("package") == "_global_":
        misfits = _of_other_kinds(OmegaConf.to_container(read.config), f"{file}: ")
        if (first := next(misfits, None)) is not None:
            return first
    return Problem(file, "a valid config file", hint=_file_hint(error))


def _of_other_kinds(tree: Any, above: str, record: type = Config) -> Iterator[Problem]:
    """Lists, mappings and single values of a file where the schema has another of these.

    OmegaConf merges whole files, and does not say where one does not fit.
    """
    hints = get_type_hints(record)
    for key, value in tree.items() if isinstance(tree, dict) else ():
        hint = hints.get(key, Any)
        mapping = is_dataclass(hint) or get_origin(hint) is dict
        several = mapping or get_origin(hint) is list
        if is_dataclass(hint) and isinstance(value, dict):
            yield from _of_other_kinds(value, f"{above}{key}.", cast(type, hint))
        elif isinstance(value, str) or hint is Any:  # it may be an interpolation
            continue
        elif isinstance(value, dict) != mapping or isinstance(value, list | dict) != several:
            yield Problem(f"{above}{key}", describe(hint), value)


def _files_with(group: str, slot: str) -> list[str]:
    """The files of a group whose defaults list has a slot."""
    found = []
    for name in _groups()[group]:
        read = _repository().load_config(f"{group}/{name}")
        listed = read.defaults_list if read is not None else None
        groups = (getattr(default, "group", None) for default in listed or [])
        if slot.removeprefix(f"{group}/") in groups:
            found.append(name)
    return found


def _repository() -> IConfigRepository:
    return cast(IConfigRepository, _loader().repository)


def _explain_field(path: str, name: str, value: str, record: type) -> Problem:
    hints = get_type_hints(record)
    if name not in hints:
        above = path.rpartition(".")[0] or "the config"
        return Problem(path, f"a key of {above}", value, nearest(name, hints))
    return Problem(path, describe(hints[name]), value)


def _file_hint(error: Exception) -> str:
    match = re.search(r"Key '([^']+)' not in '(\w+)'", str(error))
    cause = error.__cause__ or error.__context__
    if match is None and isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {_first_line(cause)}"
    if match is None:
        return _first_line(error)
    key, where = match.groups()
    known = ROOT_KEYS if where == "Config" else tuple(Config().run.__dataclass_fields__)
    return f"unknown key {key!r}; {nearest(key, known) or 'see conf/train.yaml'}"


def _groups() -> dict[str, list[str]]:
    """Every config group and the files that can be chosen from it."""
    loader = _loader()
    found: dict[str, list[str]] = {}

    def visit(group: str) -> None:
        names = [n for n in loader.get_group_options(group) if n != "schema"] if group else []
        if names:
            found[group] = names
        for sub in loader.list_groups(group):
            if sub not in ("hydra", "", "paper"):  # papers are no part of a run
                visit(f"{group}/{sub}" if group else sub)

    visit("")
    return found


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def plain_yaml(config: DictConfig) -> str:
    """The config as YAML with its interpolations left as written: no environment value in it.

    URLs are without their passwords.
    """
    written = without_secrets(OmegaConf.to_container(config, resolve=False))
    text: str = yaml.dump(
        written, allow_unicode=True, sort_keys=False, Dumper=get_omega_conf_dumper()
    )
    return text
