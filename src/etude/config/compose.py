"""From overrides to a config, by Hydra; every mistake in the overrides is reported at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from etude.config.paths import conf_dir
from etude.config.schema import NODES, ROOT_KEYS, Config
from etude.errors import Problem, RequestError, nearest

HYDRA_VERSION_BASE = "1.3"
_HYDRA_ERRORS = (HydraException, OmegaConfBaseException, ValueError)

ConfigStore.instance().store(name="schema", node=Config)


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
        try:
            config = _compose(typed)
        except _HYDRA_ERRORS as error:
            raise RequestError(blame(typed, error)) from error
    config.run.overrides = [item for item in typed if not item.startswith("hydra.")]
    return config


@contextmanager
def searching(config_dir: str | Path | None) -> Iterator[None]:
    """Lets Hydra find the shipped configs and those in `config_dir`, whatever it did before."""
    folder = Path(config_dir).resolve() if config_dir else None
    if folder is not None and not folder.is_dir():
        raise RequestError(Problem("--config-dir", "a folder of configs", str(config_dir)))
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base=HYDRA_VERSION_BASE):
            if folder is not None:
                path = GlobalHydra.instance().config_loader().get_search_path()
                path.append("--config-dir", f"file://{folder}")
            yield
    finally:
        GlobalHydra.instance().clear()
        if before is not None:
            GlobalHydra.instance().initialize(before)


def _compose(overrides: Sequence[str]) -> DictConfig:
    return hydra.compose("train", [addable(item) for item in overrides])


def addable(override: str) -> str:
    """`model.bias=false` as `++model.bias=false`: a file need not list every argument.

    Keys below a node are arguments of its constructor, whose signature says which exist, so
    Hydra need not insist on a `+`. Everything else is returned as it is.
    """
    key = override.split("=", 1)[0]
    inside = key.split(".")[0] in (*NODES, "callbacks", "vars") and "." in key
    return f"++{override}" if inside and "=" in override and "/" not in key else override


def blame(overrides: Sequence[str], error: Exception) -> list[Problem]:
    """Which overrides are wrong, and why: each is tried beside those already found good."""
    problems: list[Problem] = []
    good: list[str] = []
    groups_first = sorted(overrides, key=lambda item: "." in item.split("=", 1)[0])
    for item in groups_first:
        try:
            _compose([*good, item])
            good.append(item)
        except _HYDRA_ERRORS as reason:
            problems.append(_explain(item, reason))
    return problems or [Problem("config", "a config that composes", hint=_first_line(error))]


def _explain(item: str, error: Exception) -> Problem:
    try:
        override: Override = OverridesParser.create().parse_override(addable(item))
    except OverrideParseException:
        if "=" not in item:
            return Problem(item, "KEY=VALUE", hint="for example optimizer.lr=1e-3")
        return Problem(
            item, "a value in Hydra's grammar", hint="quote it: 'key=\"a value, with commas\"'"
        )
    key = override.key_or_group
    value = item.split("=", 1)[1] if "=" in item else ""
    parts = re.split(r"[./]", key)
    groups = _groups()
    if parts[0] not in ROOT_KEYS and key not in groups:
        hint = nearest(parts[0], (*ROOT_KEYS, *(g for g in groups if "/" not in g)))
        return Problem(key, "a key of the config", value, hint)
    if isinstance(error, MissingConfigException) and key in groups:
        missing = error.missing_cfg_file or value
        if missing == f"{key}/{value}":
            return Problem(key, f"a file in conf/{key}/", value, nearest(value, groups[key]))
        return Problem(f"{key}={value}", "a file that names files which exist", missing)
    if "/" in key and key not in groups:
        return Problem(key, "a config group", value, nearest(key, groups))
    if key in groups and "." not in key:
        return Problem(f"conf/{key}/{value}.yaml", "a valid config file", hint=_file_hint(error))
    if parts[0] == "run" and len(parts) > 1:
        known = Config().run.__dataclass_fields__
        if parts[1] not in known:
            return Problem(key, "a key of run", value, nearest(parts[1], known))
        return Problem(key, f"a value of type {known[parts[1]].type}", value)
    if key in Config.__dataclass_fields__:
        return Problem(key, f"a value of type {Config.__dataclass_fields__[key].type}", value)
    return Problem(key, "an override that fits the config", value, _first_line(error))


def _file_hint(error: Exception) -> str:
    match = re.search(r"Key '([^']+)' not in '(\w+)'", str(error))
    if match is None:
        return _first_line(error)
    key, where = match.groups()
    known = ROOT_KEYS if where == "Config" else tuple(Config().run.__dataclass_fields__)
    return f"unknown key {key!r}; {nearest(key, known) or 'see conf/train.yaml'}"


def _groups() -> dict[str, list[str]]:
    """Every config group and the files that can be chosen from it."""
    loader = GlobalHydra.instance().config_loader()
    found: dict[str, list[str]] = {}

    def visit(group: str) -> None:
        names = [n for n in loader.get_group_options(group) if n != "schema"] if group else []
        if names:
            found[group] = names
        for sub in loader.list_groups(group):
            if sub not in ("hydra", ""):
                visit(f"{group}/{sub}" if group else sub)

    visit("")
    return found


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def plain_yaml(config: DictConfig) -> str:
    """The config as YAML with its interpolations left as written: no environment value in it."""
    return OmegaConf.to_yaml(config, resolve=False)
