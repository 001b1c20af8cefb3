"""Reads the `config.yaml` of a saved run, which may come from any source; executes no code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import Problem, RequestError
from etude.records.opening import CONFIG, read_bytes

if TYPE_CHECKING:
    from omegaconf import DictConfig

_EVENTS, _DEPTH = 20_000, 64
"""Maximum numbers of YAML events (keys, values, starts and ends of lists and mappings) and of
nesting levels in a run's config, so that reading takes a few seconds at most. A typical config has
500 events and 5 levels.
"""


def read_config(path: Path) -> DictConfig:
    """Returns the config in a run's `config.yaml`, after comparing its keys and types with the
    schema.

    Raises:
        RequestError: the file is missing, is not YAML, is too large, contains aliases or tags, or
            has unknown keys or values of wrong types.
    """
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from etude.config.schema import Config
    from etude.records.references import check_expanded_size

    text = _checked_text(path)
    try:
        stored = OmegaConf.create(text)
        check_expanded_size(OmegaConf.to_container(stored, resolve=False), str(path))
        config = OmegaConf.merge(OmegaConf.structured(Config), stored)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        hint = str(error).splitlines()[0]
        raise RequestError(
            Problem(str(path), "known config keys with values of the right types", hint=hint)
        ) from error
    assert isinstance(config, DictConfig)
    return config


def to_portable(config: DictConfig) -> DictConfig:
    """Returns a saved run's config without the settings of the machine on which it was trained.

    Loggers are removed, and the folders of runs and of prepared data have their default values.

    Only keys that are not hashed into the run's signature can refer to environment variables. If
    such a variable is not set on this machine, the key gets its default value.
    """
    from omegaconf import OmegaConf

    from etude.config.flattening import flatten
    from etude.config.schema import Config

    result = config.copy()
    result.logger = {}
    defaults = OmegaConf.structured(Config)
    for key in ("run.root", "run.cache"):
        OmegaConf.update(result, key, OmegaConf.select(defaults, key))
    tree: Any = OmegaConf.to_container(result, resolve=False)
    for path, value in flatten(tree):
        if "oc.env:" in str(value) and not _resolves(result, path):
            parent, _, key = path.rpartition(".")
            if path.split(".")[0] in ("run", "vars"):
                OmegaConf.update(result, path, OmegaConf.select(defaults, path))
            else:
                del OmegaConf.select(result, parent)[key]
    return result


def read_flat(path: Path) -> dict[str, Any]:
    """Returns a dictionary from key paths to values of a run's `config.yaml`, with unchecked types.

    The dictionary is empty if the file is missing or invalid. A value that is a single reference,
    such as `${data.sequence_length}`, is replaced by the value that it refers to; other
    interpolations stay unresolved.
    """
    import yaml

    from etude.config.flattening import flatten, follow_reference, without_record_options

    try:
        tree = yaml.load(_checked_text(path), Loader=_loader())
    except (RequestError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    if not isinstance(tree, dict):
        return {}
    values = dict(flatten(without_record_options(tree)))
    return {key: follow_reference(value, values) for key, value in values.items()}


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


def _checked_text(path: Path) -> str:
    """Returns the text of a YAML file that has passed `check_simple_yaml`.

    Raises:
        RequestError: the file is missing or does not pass the check.
    """
    try:
        text = read_bytes(path, CONFIG).decode()
    except FileNotFoundError:
        raise RequestError(
            Problem(str(path), "the config of a run", hint="file not found")
        ) from None
    except UnicodeDecodeError as error:
        raise RequestError(Problem(str(path), "valid YAML", hint=str(error))) from error
    check_simple_yaml(text, path)
    return text


def check_simple_yaml(text: str, path: Path) -> None:
    """Checks that a YAML text is not too large or too deeply nested, and has no aliases.

    Aliases (`*name`) are refused because they can expand without limit.

    Args:
        text: the YAML text.
        path: path of the text's file, for the error message.

    Raises:
        RequestError: the text does not pass the check.
    """
    import yaml

    if len(text.encode()) > CONFIG.largest:
        raise RequestError(Problem(str(path), f"a file of at most {CONFIG.largest:,} bytes"))
    depth = 0
    try:
        for number, event in enumerate(yaml.parse(text, Loader=_loader())):
            if isinstance(event, yaml.AliasEvent):
                hint = f"write out the value instead of *{event.anchor}"
                raise RequestError(Problem(str(path), "YAML without aliases", hint=hint))
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEPTH:
                expected = f"at most {_DEPTH} levels of nested lists and mappings"
                raise RequestError(Problem(str(path), expected))
            if number > _EVENTS:
                raise RequestError(Problem(str(path), f"at most {_EVENTS:,} keys and values"))
    except yaml.YAMLError as error:
        raise RequestError(Problem(str(path), "valid YAML", hint=str(error))) from error


def _loader() -> Any:
    """Returns PyYAML's safe loader, the C implementation where available."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)
