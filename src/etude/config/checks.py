"""A composed config checked as a whole: all mistakes at once, before anything heavy is built."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from etude.config import constructors
from etude.config.describe import describe
from etude.config.environment import Resolved, instead, resolved, shown
from etude.config.hints import argument_of_a_node
from etude.config.nodes import Node, check_node, fits
from etude.config.pins import pin
from etude.config.schema import (
    HEADS,
    NODES,
    ON_ERROR,
    ON_EXISTING,
    OUT_OF_SIGNATURE,
    Config,
    InitFrom,
    Run,
)
from etude.config.targets import PACKAGE, installed_extensions
from etude.errors import Problem, RequestError, nearest
from etude.secrets import Mask, variable_in, without_passwords

MOST_SAMPLES = 10_000
"""Texts at the end of a run, each of which takes seconds."""
_MARK = "VALUE_FROM_THE_ENVIRONMENT"


class Unsound(RequestError):
    """A config with mistakes in its keys or types.

    Attributes:
        sound: the nodes in which there are none; their constructors may refuse them all the same.
    """

    def __init__(
        self, problems: Problem | Iterable[Problem], sound: Mapping[str, Node] | None = None
    ) -> None:
        super().__init__(problems)
        self.sound = dict(sound or {})


@dataclass
class Checked:
    """A config without mistakes.

    Attributes:
        config: as composed; saved to the record with its interpolations unresolved.
        nodes: the constructors and arguments of `model`, `data`, ...
        callbacks: further Lightning callbacks by name.
        loggers: views of the record by name.
        identity: canonical plain data, what the signature hashes; no URL's password is in it.
        shown: the config as plain data that may be shown: no password, and references in place
            of values from the environment.
        mask: hides those in any other text.
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


def check(config: DictConfig, *, trust: Sequence[str] | None = None) -> Checked:
    """Checks every key and value of `config` against the root's and the constructors' types.

    Args:
        config: from `compose`, or read from a record.
        trust: modules that may be named beside Étude's; None takes the config's own
            `extensions` and the installed ones, which is for configs that the user typed.

    Raises:
        RequestError: with every problem found.
    """
    read, of_values = _read(config)
    plain = read.plain
    start = plain["init_from"]
    if start["source"] is not None and not start["found"]:
        if trust is not None:
            expected = "what the source was: a run's record states it"
            raise RequestError(Problem("init_from.found", expected, {}))
        if _any_below((problem.where for problem in of_values), "init_from"):
            raise RequestError(of_values)
        training = importlib.import_module("etude.training.initial")  # a layer above this one
        config = training.Initial.settled(config)
        read, of_values = _read(config)
        plain = read.plain
    problems: list[Problem] = []
    if trust is None:
        extensions, problems = usable_extensions(plain["extensions"])
    else:
        extensions = list(trust)
        if extensions:
            _look_here_too()
        problems += _own_package(extensions, "trust")
        problems += _not_importable(extensions, "trust")
    problems += _check_root(plain)
    nodes, callbacks, loggers = _check_nodes(plain, extensions, problems)
    constructors.save()
    reported = {problem.where for problem in of_values}
    problems = [*of_values, *(problem for problem in problems if problem.where not in reported)]
    if problems:
        wrong = [problem.where for problem in problems]
        every = nodes | {f"callbacks.{name}": node for name, node in callbacks.items()}
        sound = {key: node for key, node in every.items() if not _any_below(wrong, key)}
        raise Unsound(problems, sound)
    pinned = pin(config, [*nodes.values(), *callbacks.values()])
    return Checked(
        config=pinned,
        name=plain["name"],
        seed=plain["seed"],
        nodes=nodes,
        callbacks=callbacks,
        loggers=loggers,
        run=Run(**plain["run"]),
        identity=without_passwords(_identity(plain, nodes, callbacks)),
        shown=shown(pinned, read if pinned is config else None),
        mask=read.mask,
    )


_Nodes = dict[str, Node]


def _check_nodes(
    plain: Mapping[str, Any], extensions: Sequence[str], problems: list[Problem]
) -> tuple[_Nodes, _Nodes, _Nodes]:
    """The nodes of the root, the callbacks and the loggers, each by its name.

    Args:
        problems: what is wrong with them is added.
    """

    def checked(above: str, names: Mapping[str, Any]) -> _Nodes:
        made: _Nodes = {}
        for name, value in names.items():
            made[name], found = check_node(f"{above}{name}", value, extensions)
            problems.extend(found)
        return made

    nodes = checked("", {key: plain[key] for key in NODES})
    return nodes, checked("callbacks.", plain["callbacks"]), checked("logger.", plain["logger"])


def _identity(plain: Mapping[str, Any], nodes: _Nodes, callbacks: _Nodes) -> dict[str, Any]:
    """Canonical plain data, what the signature hashes."""
    identity: dict[str, Any] = {
        "name": plain["name"],
        "seed": plain["seed"],
        **{key: node.canonical() for key, node in nodes.items()},
        "callbacks": {name: node.canonical() for name, node in callbacks.items()},
        "extensions": sorted(plain["extensions"]),
    }
    start = plain["init_from"]
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


def _read(config: DictConfig) -> tuple[Resolved, list[Problem]]:
    """The config resolved, and what is wrong beside the nodes.

    Raises:
        RequestError: an interpolation does not resolve.
    """
    written = OmegaConf.to_container(config, resolve=False)
    try:
        read = resolved(config)
    except OmegaConfBaseException as error:
        problems = [*_environment_in_identity(written, instead(config, _MARK))]
        problems += _secrets_in_identity(written, config)
        key = getattr(error, "full_key", None) or "config"
        reason = str(error).splitlines()[0]
        unknown = _unknown_keys(config, written)
        dangling = Problem(str(key), "an interpolation that resolves", hint=reason)
        raise RequestError([*problems, *unknown, dangling]) from error
    plain = read.plain
    marked = instead(config, _MARK) if read.asked else plain
    problems = [*_environment_in_identity(written, marked), *_secrets_in_identity(written, config)]
    problems += [*_unknown_keys(config, plain), *_null_characters(plain), *_unfit_values(plain)]
    return read, problems


def _unknown_keys(
    config: DictConfig, tree: Any, record: type = Config, above: str = ""
) -> Iterator[Problem]:
    """Keys that a `+` added where the schema has no such key.

    Args:
        config: the whole, of which a misplaced key may be meant.
        tree: what `record` describes, as plain data.
        record: a dataclass of the schema.
        above: its key path, with a dot at the end.
    """
    hints = _hints(record)
    for key in map(str, tree):
        if key not in hints and variable_in(key) is None:  # a secret is reported as such
            meant = None if above else argument_of_a_node(key, config)
            expected = f"a key of {above[:-1] or 'the config'}"
            yield Problem(f"{above}{key}", expected, hint=meant or nearest(key, hints))
    for key, hint in hints.items():
        if is_dataclass(hint) and isinstance(tree.get(key), Mapping):
            yield from _unknown_keys(config, tree[key], cast(type, hint), f"{above}{key}.")


@cache
def _hints(record: type) -> dict[str, Any]:
    """The types of a dataclass's fields; only to be read."""
    return get_type_hints(record)


def _unfit_values(
    tree: dict[str, Any], record: type = Config, above: str = ""
) -> Iterator[Problem]:
    """Values of other types than the schema's: OmegaConf lets lists and mappings through as items
    of lists, and lists, mappings and texts where an interpolation stood.

    The usual value takes the place of each, so that what follows can be checked too.
    """
    usual = record()
    for key, hint in _hints(record).items():
        path, value = f"{above}{key}", tree.get(key)
        if is_dataclass(hint) and isinstance(value, dict):
            yield from _unfit_values(value, cast(type, hint), f"{path}.")
        elif is_dataclass(hint) or not fits(value, hint):
            yield Problem(path, describe(hint), value)
            tree[key] = asdict(usual)[key]
        elif above and "???" in (value if isinstance(value, list) else [value]):
            yield Problem(path, "a value: it must be given", hint=f"type {path}=...")


def _null_characters(plain: Mapping[str, Any]) -> Iterator[Problem]:
    """Texts with the one character that no path, name or argument can have."""
    for path, value in _leaves(plain):
        if isinstance(value, str) and "\0" in value:
            yield Problem(path, "a text without null characters", value)


def _look_here_too() -> None:
    """Modules in the working folder can be imported, as they can with `python -m`.

    A console script does not look there; the user's own modules lie there all the same.
    """
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _own_package(named: Sequence[str], where: str) -> Iterator[Problem]:
    for module in named:
        if module.split(".")[0] == PACKAGE:
            expected = "modules of your own: Étude's classes may stand in their slots anyway"
            yield Problem(where, expected, module)


def _not_importable(named: Sequence[str], where: str) -> Iterator[Problem]:
    for module in named:
        try:
            found = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            yield Problem(where, "a module that can be imported from here", module)


def usable_extensions(named: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """The modules whose classes a config of the user's may name: those that it states, found from
    the working folder too, and those of installed packages; and what is wrong with them.
    """
    if named:
        _look_here_too()
    problems = [*_own_package(named, "extensions"), *_not_importable(named, "extensions")]
    return [*named, *installed_extensions()], problems


def _check_root(plain: Mapping[str, Any]) -> Iterator[Problem]:
    yield from check_name(plain["name"])
    if not 0 <= plain["seed"] < 2**63:
        yield Problem("seed", "a whole number from 0 to 2**63 - 1", plain["seed"])
    run = plain["run"]
    for key, choices in (("on_existing", ON_EXISTING), ("on_error", ON_ERROR)):
        if run[key] not in choices:
            hint = nearest(str(run[key]), choices)
            yield Problem(f"run.{key}", "one of " + ", ".join(choices), run[key], hint)
    if plain["init_from"]["head"] not in HEADS:
        yield Problem("init_from.head", "keep or new", plain["init_from"]["head"])
    start, usual = plain["init_from"], InitFrom()
    for key in ("checkpoint", "head", "revision", "grow_positions"):
        if start["source"] is None and start[key] != getattr(usual, key):
            expected = "nothing: init_from=SOURCE names none"
            yield Problem(f"init_from.{key}", expected, start[key])
    for key in ("stop_at_step", "save_every", "keep_every", "sample_tokens"):
        if run[key] is not None and run[key] < 1:
            yield Problem(f"run.{key}", "a positive number of steps or null", run[key])
    if run["keep_last"] is not None and run["keep_last"] < 1:
        yield Problem("run.keep_last", "a positive number of checkpoints or null", run["keep_last"])
    if not str(run["root"]).strip():
        yield Problem("run.root", "a folder for the records", run["root"])
    if not 0 <= run["samples"] <= MOST_SAMPLES:
        yield Problem("run.samples", f"0 to {MOST_SAMPLES:,}", run["samples"])


_OF_SHELLS = "*?$<>|\"':;&`"  # what shells or other file systems read otherwise


def _is_symbol(character: str) -> bool:
    """Whether it is an emoji or the like."""
    return unicodedata.category(character) == "So"


def check_name(name: Any) -> Iterator[Problem]:
    """A run's name is one folder under the root: no separators, no leading `_` or `.`."""
    text = str(name)
    if name is None or name == "???" or not text.strip():
        yield Problem("name", "a name for the run's folder")
    elif Path(text).name != text or "\\" in text or "~" in text:
        yield Problem("name", "one folder name, without separators", text)
    elif (not text[0].isalnum() and not _is_symbol(text[0])) or text != text.strip():
        yield Problem("name", "a name that begins with a letter or digit", text)
    elif found := sorted(set(text) & set(_OF_SHELLS)):
        yield Problem("name", f"a name without {' '.join(found)}", text)
    elif any(unicodedata.category(c).startswith("C") for c in text):
        yield Problem("name", "a name without control characters", text)
    elif len(text.encode()) > 120:
        yield Problem("name", "at most 120 bytes", text)


def _environment_in_identity(written: Any, marked: Any) -> Iterator[Problem]:
    """`${oc.env:...}` where it would enter the signature: the run would depend on the machine.

    Args:
        written: the config as plain data, unresolved.
        marked: resolved, with a mark in place of every value from the environment, so that one
            which comes by way of another key (`vars.a=${oc.env:HOME} data.path=${vars.a}`) is
            found too.
    """
    for path, value in _leaves(marked):
        if isinstance(value, str) and (_MARK in value or "oc.env:" in value) and not _is_out(path):
            expected = "a value that does not come from the environment"
            yield Problem(path, expected, dict(_leaves(written)).get(path, value))


def _secrets_in_identity(written: Any, config: DictConfig) -> Iterator[Problem]:
    """The value of a secret variable, typed where it would enter the signature or is a key: such a
    place is written down, and the run's name would depend on it.

    Args:
        written: `config` as plain data, unresolved.
    """
    for path, value in _leaves(written):
        if (name := variable_in(path)) is not None:
            where = path.partition(os.environ[name])[0].rstrip(".")
            where = where or _position(os.environ[name], config)
            yield Problem(where, f"a key that is not the value of ${name}")
        elif not _is_out(path) and (name := variable_in(str(value))) is not None:
            yield Problem(path, f"something else than the value of ${name}", value)


def _position(secret: str, config: DictConfig) -> str:
    """Which override names a secret as its key, in words that do not show it."""
    for number, typed in enumerate(config.run.overrides, start=1):
        if secret in typed:
            return f"override {number}"
    return "a key of the config"


def _is_out(path: str) -> bool:
    """Whether a key is no part of the signature."""
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
