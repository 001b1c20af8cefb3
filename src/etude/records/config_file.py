"""`config.yaml` of a record, which may be anybody's: data, and never more than data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import Problem, RequestError
from etude.records.opening import CONFIG, read_bytes

if TYPE_CHECKING:
    from omegaconf import DictConfig

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_EVENTS, _DEPTH = 20_000, 64
"""What a record's config holds at most, so that reading it takes seconds: keys, values, beginnings
and ends of lists; and lists and mappings within each other. Usual are 500 and 5."""


def read_config(path: Path) -> DictConfig:
    """A record's `config.yaml`: no alias, no tag, nothing executed.

    Raises:
        RequestError: missing, no YAML, or YAML that a record never holds.
    """
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from etude.config.schema import Config
    from etude.records.references import must_stay_small

    text = _plain_text(path)
    try:
        written = OmegaConf.create(text)
        must_stay_small(OmegaConf.to_container(written, resolve=False), str(path))
        config = OmegaConf.merge(OmegaConf.structured(Config), written)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        hint = str(error).splitlines()[0]
        raise RequestError(
            Problem(str(path), "the keys and types of a config", hint=hint)
        ) from error
    assert isinstance(config, DictConfig)
    return config


def portable(config: DictConfig) -> DictConfig:
    """The config without what only the machine that wrote it has: loggers, its environment, where
    its runs and its prepared data lie. These are the reader's own.

    Only keys out of the signature can refer to the environment. Where a variable is not set here,
    they take their defaults.
    """
    from omegaconf import OmegaConf

    from etude.config.flat import flat
    from etude.config.schema import Config

    found = config.copy()
    found.logger = {}
    defaults = OmegaConf.structured(Config)
    for key in ("run.root", "run.cache"):
        OmegaConf.update(found, key, OmegaConf.select(defaults, key))
    written: Any = OmegaConf.to_container(found, resolve=False)
    for path, value in flat(written):
        if "oc.env:" in str(value) and not _resolves(found, path):
            parent, _, key = path.rpartition(".")
            if path.split(".")[0] in ("run", "vars"):
                OmegaConf.update(found, path, OmegaConf.select(defaults, path))
            else:
                del OmegaConf.select(found, parent)[key]
    return found


def read_flat(path: Path) -> dict[str, Any]:
    """The values by key path, fast and unchecked; empty where `read_config` would refuse to read.

    A plain reference (`${data.sequence_length}`) is followed; nothing else is resolved.
    """
    import yaml

    from etude.config.flat import flat, without_record_options

    try:
        tree = yaml.load(_plain_text(path), Loader=_loader())
    except (RequestError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    if not isinstance(tree, dict):
        return {}
    values = dict(flat(without_record_options(tree)))
    return {key: _followed(value, values) for key, value in values.items()}


def _resolves(config: DictConfig, path: str) -> bool:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        value = OmegaConf.select(config, path)
        if OmegaConf.is_config(value):
            OmegaConf.to_container(value, resolve=True)
    except OmegaConfBaseException:
        return False
    return True


def _plain_text(path: Path) -> str:
    """The file's text, once it is known to be YAML that can be read; see `must_be_plain`.

    Raises:
        RequestError: it is missing, or is not.
    """
    try:
        text = read_bytes(path, CONFIG).decode()
    except FileNotFoundError:
        raise RequestError(Problem(str(path), "a record's config")) from None
    except UnicodeDecodeError as error:
        raise RequestError(Problem(str(path), "valid YAML", hint=str(error))) from error
    must_be_plain(text, path)
    return text


def must_be_plain(text: str, path: Path) -> None:
    """Refuses YAML with aliases, which could grow without end, and what is too large or too deep.

    Raises:
        RequestError: names the file.
    """
    import yaml

    if len(text.encode()) > CONFIG.largest:
        raise RequestError(Problem(str(path), f"at most {CONFIG.largest:,} bytes"))
    depth = 0
    try:
        for number, event in enumerate(yaml.parse(text, Loader=_loader())):
            if isinstance(event, yaml.AliasEvent):
                raise RequestError(Problem(str(path), "YAML without aliases"))
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEPTH:
                expected = f"at most {_DEPTH} lists and mappings within each other"
                raise RequestError(Problem(str(path), expected))
            if number > _EVENTS:
                raise RequestError(Problem(str(path), f"at most {_EVENTS:,} keys and values"))
    except yaml.YAMLError as error:
        raise RequestError(Problem(str(path), "valid YAML", hint=str(error))) from error


def _loader() -> Any:
    """PyYAML's safe loader, in C where it was built with it."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _followed(value: Any, values: dict[str, Any]) -> Any:
    for _ in range(8):  # a chain of references; a circle ends too
        found = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if found is None or found[1] not in values:
            break
        value = values[found[1]]
    return value
