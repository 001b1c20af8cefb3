"""Checks a composed config and reports all errors at once, before a model or data is built."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from etude.config import constructors
from etude.config.environment import (
    ResolvedConfig,
    masked_config,
    resolve_config,
    resolve_with_placeholders,
)
from etude.config.nodes import Node, check_node, fits
from etude.config.pinning import pin
from etude.config.schema import (
    HEADS,
    NODES,
    ON_ERROR,
    ON_EXISTING,
    OUT_OF_SIGNATURE,
    ROOT_KEYS,
    Config,
    InitFrom,
    Run,
)
from etude.config.stale_modules import remember_imports, stale_modules
from etude.config.suggestions import suggest_node
from etude.config.targets import PACKAGE, installed_extensions
from etude.config.type_names import describe_type, takes_bool
from etude.errors import Problem, RequestError, nearest, nearest_of
from etude.secrets import Mask, find_secret_variable, mask_passwords

MAX_SAMPLES = 10_000
"""Maximum number of sample texts; each takes seconds to generate."""
_MARK = "VALUE_FROM_THE_ENVIRONMENT"


class InvalidConfig(RequestError):
    """Raised for a config with errors in its keys or types; it is a `RequestError`.

    Attributes:
        sound: the nodes (values with a `_target_`) without errors, by key path; loggers are not
            included. Their constructors may still refuse the arguments.
    """

    def __init__(
        self, problems: Problem | Iterable[Problem], sound: Mapping[str, Node] | None = None
    ) -> None:
        super().__init__(problems)
        self.sound = dict(sound or {})


@dataclass
class CheckedConfig:
    """A config that passed all checks.

    Attributes:
        config: the composed config; saved in `config.yaml` with unresolved interpolations.
        name: the run's name.
        seed: the random seed.
        nodes: the constructor and the arguments of each root key that builds an object (`model`,
            `data`, ...).
        callbacks: nodes of additional Lightning callbacks, by name.
        loggers: nodes of loggers, by name.
        run: the options of `run`, which don't affect the result.
        identity: the part of the config that is hashed into the signature, as plain data in a
            canonical form. Passwords in URLs are masked.
        shown: the config as plain data without secrets: passwords are masked, and values from the
            environment are replaced by references.
        mask: object that masks, in other texts, the values that the config takes from the
            environment.
    """

    config: DictConfig
    name: str
    seed: int
    nodes: dict[str, Node]
    callbacks: dict[str, Node]
    loggers: dict[str, Node]
    run: Run
    identity: dict[str, Any]
    shown: dict[str, Any]
    mask: Mask

    def __repr__(self) -> str:
        return f"CheckedConfig({self.name!r}, seed={self.seed}, nodes {', '.join(self.nodes)})"


def check(config: DictConfig, *, trust: Sequence[str] | None = None) -> CheckedConfig:
    """Checks each key and value of a config against the types of the schema and the constructors.

    Args:
        config: a config from `compose` or from a saved run.
        trust: modules, in addition to Étude's, whose classes the config may name. None allows the
            modules in the config's own key `extensions` and the installed extensions. Use None
            only for a config that the user wrote.

    Returns:
        The checked config, from whose nodes the objects of a run are built.

    Raises:
        RequestError: the config has errors; the exception contains all of them.
    """
    if missing := [key for key in ROOT_KEYS if key not in config.keys()]:  # noqa: SIM118
        expected = "the complete result of etude.compose(...)"
        hint = f"the key {missing[0]} is missing"
        raise RequestError(Problem("config", expected, hint=hint))
    read, of_values = _read(config)
    values = read.values
    start = values["init_from"]
    if start["source"] is not None and not start["found"]:
        if trust is not None:
            expected = "the description of the initial weights, which training saves in config.yaml"
            hint = "restore the file config.yaml of this run from a backup"
            raise RequestError(Problem("init_from.found", expected, {}, hint))
        if _any_below((problem.where for problem in of_values), "init_from"):
            raise RequestError(of_values)
        # A higher layer, which this module cannot import at its top.
        init_from = importlib.import_module("etude.training.init_from")
        config = init_from.InitFromSource.resolve_config(config)
        read, of_values = _read(config)
        values = read.values
    problems: list[Problem] = []
    if trust is None:
        extensions, problems = find_extensions(values["extensions"])
    else:
        extensions = list(trust)
        if extensions:
            _add_current_folder_to_path()
        problems += _check_outside_package(extensions, "trust")
        problems += _check_importable(extensions, "trust")
    problems += _check_root(values)
    nodes, callbacks, loggers = _check_nodes(values, extensions, problems)
    remember_imports(extensions)
    if trust is None:  # records of earlier versions may contain such values
        problems += _ambiguous_booleans(values, nodes)
    constructors.save_index()
    problems = [_with_origin(problem, values["run"]["overrides"]) for problem in problems]
    reported = {problem.where for problem in of_values}
    problems = [*of_values, *(problem for problem in problems if problem.where not in reported)]
    if problems:
        wrong = [problem.where for problem in problems]
        every = nodes | {f"callbacks.{name}": node for name, node in callbacks.items()}
        sound = {key: node for key, node in every.items() if not _any_below(wrong, key)}
        raise InvalidConfig(problems, sound)
    pinned = pin(config, [*nodes.values(), *callbacks.values()])
    return CheckedConfig(
        config=pinned,
        name=values["name"],
        seed=values["seed"],
        nodes=nodes,
        callbacks=callbacks,
        loggers=loggers,
        run=Run(**values["run"]),
        identity=mask_passwords(_identity(values, nodes, callbacks)),
        shown=masked_config(pinned, read if pinned is config else None),
        mask=read.mask,
    )


_BOOLEANS = {"yes": "true", "on": "true", "no": "false", "off": "false"}


def _ambiguous_booleans(values: Mapping[str, Any], nodes: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields a problem for each value such as `yes` of an argument that is true or false.

    Config files must not contain these values either; see `etude.config.yaml_file`.

    Args:
        values: the config as plain data.
        nodes: the node of each root key; None if it is not valid.
    """
    for path, value in _leaves(values):
        meant = _BOOLEANS.get(value.lower()) if isinstance(value, str) else None
        root, *above, name = path.split(".") if "." in path else (path, path)
        node = nodes.get(root)
        for key in above:
            node = node.arguments.get(key) if isinstance(node, Node) else None
        if meant is None or not isinstance(node, Node) or name not in node.description.parameters:
            continue
        hint = node.description.parameters[name].hint
        if takes_bool(hint) and not fits(value, hint):
            yield Problem(path, describe_type(hint), value, f"did you mean {meant}?")


def _with_origin(problem: Problem, overrides: Sequence[str]) -> Problem:
    """Adds a hint to the problem of an unknown argument if a config file, and no override, sets it.

    Problems with a suggestion are returned unchanged.
    """
    is_unknown = problem.expected.startswith("an argument of ")
    if not is_unknown or (problem.hint or "").startswith(("did you mean", "use ")):
        return problem
    typed = [item.lstrip("+").partition("=")[0] for item in overrides]
    if any("." in key and _any_below([problem.where], key) for key in typed):
        return problem
    origin = f"a config file sets this key; to remove it, add '~{problem.where}'"
    return replace(problem, hint="; ".join(filter(None, [problem.hint, origin])))


_Nodes = dict[str, Node]


def _check_nodes(
    values: Mapping[str, Any], extensions: Sequence[str], problems: list[Problem]
) -> tuple[_Nodes, _Nodes, _Nodes]:
    """Checks all nodes (values with a `_target_`) of a config.

    Args:
        values: the config as plain data.
        extensions: modules whose classes the config may name.
        problems: list to which the problems of the nodes are added.

    Returns:
        Three dictionaries from names to nodes: those of the root keys, such as `model`; those of
        the callbacks; and those of the loggers. A node is None if its `_target_` is not valid.
    """

    def checked(above: str, names: Mapping[str, Any]) -> _Nodes:
        nodes: _Nodes = {}
        for name, value in names.items():
            nodes[name], node_problems = check_node(f"{above}{name}", value, extensions)
            problems.extend(node_problems)
        return nodes

    nodes = checked("", {key: values[key] for key in NODES})
    return nodes, checked("callbacks.", values["callbacks"]), checked("logger.", values["logger"])


def _identity(values: Mapping[str, Any], nodes: _Nodes, callbacks: _Nodes) -> dict[str, Any]:
    """Returns the part of a config that is hashed into the signature, as plain data.

    The data has a canonical form: configs with the same meaning give equal data. Its keys are
    `name`, `seed`, `callbacks`, `extensions`, those of `nodes` and, if an option of `init_from`
    is set, `init_from`. Keys that do not affect the result, such as `data.workers`, are left out,
    and so are callbacks that only measure.

    Args:
        values: the resolved config as plain data; `name`, `seed`, `extensions` and `init_from` are
            read from it.
        nodes: the node (constructor and arguments) of each root key that builds an object, such as
            `model`; none of them may be None.
        callbacks: the nodes of the callbacks, by name; none of them may be None.
    """
    identity: dict[str, Any] = {
        "name": values["name"],
        "seed": values["seed"],
        **{key: node.canonical() for key, node in nodes.items()},
        "callbacks": {
            name: node.canonical()
            for name, node in callbacks.items()
            if not node.description.observes
        },
        "extensions": sorted(values["extensions"]),
    }
    start = values["init_from"]
    begin: dict[str, Any] = {}
    if start["source"] is not None:
        begin = {**start["found"], "head": start["head"]}
    if start["grow_positions"]:
        begin["grow_positions"] = True
    if start["lora"]["rank"]:
        begin["lora"] = start["lora"]
    if start["freeze"]:
        begin["freeze"] = start["freeze"]
    if begin:
        identity["init_from"] = begin
    for path in OUT_OF_SIGNATURE:
        _remove(identity, path.split("."))
    return identity


def _any_below(paths: Iterable[str], key: str) -> bool:
    return any(re.match(rf"{re.escape(key)}([.\[]|$)", path) for path in paths)


def _read(config: DictConfig) -> tuple[ResolvedConfig, list[Problem]]:
    """Resolves the interpolations of a config, and checks its keys and values.

    Returns the resolved config, and a list of problems: unknown keys, values of wrong types, and
    secrets, for example. In the resolved config, values of wrong types are replaced by their
    defaults.

    Raises:
        RequestError: an interpolation cannot be resolved.
    """
    written = OmegaConf.to_container(config, resolve=False)
    try:
        read = resolve_config(config)
    except OmegaConfBaseException as error:
        problems = [*_environment_in_identity(written, resolve_with_placeholders(config, _MARK))]
        problems += _secrets_in_identity(written, config)
        key = getattr(error, "full_key", None) or "config"
        reason = str(error).splitlines()[0]
        unknown = _unknown_keys(config, written)
        unresolved = Problem(str(key), "an interpolation that can be resolved", hint=reason)
        raise RequestError([*problems, *unknown, unresolved]) from error
    values = read.values
    marked = resolve_with_placeholders(config, _MARK) if read.uses_environment else values
    problems = [*_environment_in_identity(written, marked), *_secrets_in_identity(written, config)]
    problems += [*_unknown_keys(config, values), *_null_characters(values), *_unfit_values(values)]
    return read, problems


def _unknown_keys(
    config: DictConfig, tree: Any, record: type = Config, above: str = ""
) -> Iterator[Problem]:
    """Yields a problem for each key that the schema does not define.

    Such a key can come from an override with `+`.

    Args:
        config: the whole config, for suggestions of misplaced keys.
        tree: the part of the config to check, as nested dictionaries.
        record: the schema's dataclass for this part.
        above: key path of `tree` with a dot at the end; empty for the whole config.
    """
    hints = _hints(record)
    for key in map(str, tree):
        is_secret = find_secret_variable(key) is not None  # reported separately
        if key not in hints and not is_secret:
            suggestion = None if above else suggest_node(key, config)
            expected = f"a key of {above[:-1] or 'the config'}"
            yield Problem(f"{above}{key}", expected, hint=suggestion or nearest(key, hints))
    for key, hint in hints.items():
        if is_dataclass(hint) and isinstance(tree.get(key), Mapping):
            yield from _unknown_keys(config, tree[key], cast(type, hint), f"{above}{key}.")


@cache
def _hints(record: type) -> dict[str, Any]:
    """Returns the types of a dataclass's fields; the result is cached and must not be changed."""
    return get_type_hints(record)


def _unfit_values(
    tree: dict[str, Any], record: type = Config, above: str = ""
) -> Iterator[Problem]:
    """Yields a problem for each value of `tree` whose type differs from the type in the schema.

    OmegaConf does not check items of lists, nor values that come from an interpolation. Each wrong
    value in `tree` is replaced by the default, so that later checks can run.

    `record` and `above` are as for `_unknown_keys`.
    """
    defaults = record()
    for key, hint in _hints(record).items():
        path, value = f"{above}{key}", tree.get(key)
        if is_dataclass(hint) and isinstance(value, dict):
            yield from _unfit_values(value, cast(type, hint), f"{path}.")
        elif is_dataclass(hint) or not fits(value, hint):
            yield Problem(path, describe_type(hint), value)
            tree[key] = asdict(defaults)[key]
        elif above and "???" in (value if isinstance(value, list) else [value]):
            yield Problem(path, "a value", hint=f"set {path}=...")


def _null_characters(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields a problem for each value that is a string with a null character.

    File paths cannot contain this character. Keys are not checked.
    """
    for path, value in _leaves(values):
        if isinstance(value, str) and "\0" in value:
            yield Problem(path, "a string without null characters", value)


def _add_current_folder_to_path() -> None:
    """Adds the working folder at the end of `sys.path`, so that its modules can be imported.

    Does nothing if `sys.path` contains it already.

    Python does this for `python -m`, but not for a console script such as `etude`.
    """
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _check_outside_package(named: Sequence[str], where: str) -> Iterator[Problem]:
    for module in named:
        if module.split(".")[0] == PACKAGE:
            hint = "omit this module; classes of etude are always allowed"
            yield Problem(where, "a module outside the package etude", module, hint)


def _check_importable(named: Sequence[str], where: str) -> Iterator[Problem]:
    for module in named:
        try:
            is_importable = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            is_importable = False
        if not is_importable:
            hint = "install the module, or run etude in the folder that contains it"
            if module.endswith(".py"):
                name = module.removesuffix(".py").replace("/", ".")
                hint = f"name the module without .py: {where}=[{name}]"
            yield Problem(where, "a module that can be imported", module, hint)


def find_extensions(named: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """Returns the modules whose classes a user's config may name, and a list of problems.

    The modules are those in `named`, which may be in the working folder, and those that installed
    packages provide. A problem is, for example, a module in `named` that cannot be imported; the
    returned list of modules contains it nevertheless.

    Args:
        named: the config's value of `extensions`.
    """
    if named:
        _add_current_folder_to_path()
    problems = [
        *_check_outside_package(named, "extensions"),
        *_check_importable(named, "extensions"),
        *stale_modules(named, "extensions"),
    ]
    return [*named, *installed_extensions()], problems


def _check_root(values: Mapping[str, Any]) -> Iterator[Problem]:
    yield from check_name(values["name"])
    if not 0 <= values["seed"] < 2**63:
        yield Problem("seed", "an integer from 0 to 2**63 - 1", values["seed"])
    run = values["run"]
    for key, choices in (("on_existing", ON_EXISTING), ("on_error", ON_ERROR)):
        if run[key] not in choices:
            hint = nearest_of(str(run[key]), choices)
            yield Problem(f"run.{key}", "one of " + ", ".join(choices), run[key], hint)
    if values["init_from"]["head"] not in HEADS:
        yield Problem("init_from.head", "keep or new", values["init_from"]["head"])
    start, defaults = values["init_from"], InitFrom()
    for key in ("checkpoint", "head", "revision", "grow_positions"):
        if start["source"] is None and start[key] != getattr(defaults, key):
            hint = "to load initial weights, set init_from.source=SOURCE"
            yield Problem(
                f"init_from.{key}", "no value, as init_from.source is not set", start[key], hint
            )
    for key in ("stop_at_step", "save_every", "keep_every", "sample_tokens"):
        if run[key] is not None and run[key] < 1:
            expected = "tokens" if key == "sample_tokens" else "steps or null"
            yield Problem(f"run.{key}", f"a positive number of {expected}", run[key])
    if run["keep_last"] is not None and run["keep_last"] < 1:
        yield Problem("run.keep_last", "a positive number of checkpoints or null", run["keep_last"])
    if not str(run["root"]).strip():
        yield Problem("run.root", "a folder in which runs can be saved", run["root"])
    if not 0 <= run["samples"] <= MAX_SAMPLES:
        yield Problem("run.samples", f"a number from 0 to {MAX_SAMPLES:,}", run["samples"])


_SPECIAL_CHARACTERS = "*?$<>|\"':;&`"  # special in shells or invalid on other file systems


def _is_symbol(character: str) -> bool:
    """Returns whether a character is an emoji or another symbol."""
    return unicodedata.category(character) == "So"


def check_name(name: Any) -> Iterator[Problem]:
    """Yields a problem if a run's name is not valid as the name of one folder."""
    text = str(name)
    if name is None or name == "???" or not text.strip():
        yield Problem("name", "a name for the run's folder", hint="set name=NAME")
    elif Path(text).name != text or "\\" in text or "~" in text:
        yield Problem("name", "the name of a single folder, without /, \\ and ~", text)
    elif (not text[0].isalnum() and not _is_symbol(text[0])) or text != text.strip():
        expected = "a name that begins with a letter or digit and does not end with a space"
        yield Problem("name", expected, text)
    elif special := sorted(set(text) & set(_SPECIAL_CHARACTERS)):
        yield Problem("name", f"a name without any of the characters {' '.join(special)}", text)
    elif any(unicodedata.category(c).startswith("C") for c in text):
        yield Problem("name", "a name without control characters", text)
    elif len(text.encode()) > 120:
        yield Problem("name", "a name of at most 120 bytes", text)


def _environment_in_identity(written: Any, marked: Any) -> Iterator[Problem]:
    """Yields a problem for each value that is hashed into the signature and uses `${oc.env:...}`.

    With such a value, the signature would depend on the environment of the machine.

    Args:
        written: the config as plain data with unresolved interpolations.
        marked: the resolved config with the text `_MARK` for each value from the environment.
            Values that refer to such a value are marked too: with `vars.a=${oc.env:HOME}
            data.path=${vars.a}`, both `vars.a` and `data.path` are marked.
    """
    for path, value in _leaves(marked):
        if (
            isinstance(value, str)
            and (_MARK in value or "oc.env:" in value)
            and not _is_out_of_signature(path)
        ):
            expected = "a value that does not come from the environment"
            hint = "it is hashed into the run's signature, which must be equal on all machines"
            yield Problem(path, expected, dict(_leaves(written)).get(path, value), hint)


def _secrets_in_identity(written: Any, config: DictConfig) -> Iterator[Problem]:
    """Yields a problem for each key or value that is hashed into the signature and contains a
    secret.

    A secret is the value of an environment variable whose name marks it as secret, such as
    `WANDB_API_KEY`; see `etude.secrets`. It would be saved in the run's folder, and the signature
    would depend on it.

    Args:
        written: `config` as plain data with unresolved interpolations.
        config: the config.
    """
    for path, value in _leaves(written):
        if (name := find_secret_variable(path)) is not None:
            where = path.partition(os.environ[name])[0].rstrip(".")
            where = where or _locate_key(os.environ[name], config)
            hint = (
                "the name of this config key contains the value of the environment variable"
                f" {name}, a secret that would be saved in the run's folder"
            )
            yield Problem(where, "a key that does not contain a secret", hint=hint)
        elif (
            not _is_out_of_signature(path)
            and (name := find_secret_variable(str(value))) is not None
        ):
            hint = (
                f"it contains the value of the environment variable {name}, a secret that would be"
                " saved in the run's folder"
            )
            yield Problem(path, "a value that does not contain a secret", value, hint)


def _locate_key(secret: str, config: DictConfig) -> str:
    """Returns a text that locates the override whose key contains a secret, without the secret.

    The text is `override 2` for the second override, or `a key of the config` if no override
    contains the secret.
    """
    for number, typed in enumerate(config.run.overrides, start=1):
        if secret in typed:
            return f"override {number}"
    return "a key of the config"


def _is_out_of_signature(path: str) -> bool:
    """Returns whether the key with the key path `path` is excluded from the signature."""
    return any(path == key or path.startswith(f"{key}.") for key in OUT_OF_SIGNATURE)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, value


def _remove(tree: dict[str, Any], path: Sequence[str]) -> None:
    for key in path[:-1]:
        inner = tree.get(key)
        if not isinstance(inner, dict):
            return
        tree = inner
    tree.pop(path[-1], None)
