"""Checks each `_target_` of a config and imports its class.

A config is data and must not name arbitrary code. Each key for a class (`model.attention`,
`optimizer`, ...) accepts its shipped classes (`etude.config.table`), and classes of the modules
that the user lists under `extensions` or that an installed package provides under the entry point
`etude.extensions`. The list of extensions in a saved run is ignored: the user who loads the run
names the modules that may be imported (`trust=[...]`, `--trust`). All other targets are refused
without importing them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from etude.config.constructors import Constructor, add_to_index, describe_class, lookup
from etude.config.table import table
from etude.errors import Problem, RequestError, nearest, summarize_exception
from etude.user_code import find_user_line

PACKAGE = "etude"


def installed_extensions() -> list[str]:
    """Returns the modules that installed packages register as entry points `etude.extensions`."""
    return list(_entry_point_modules(tuple(sys.path)))


@lru_cache(maxsize=8)
def _entry_point_modules(path: tuple[str, ...]) -> list[str]:
    """Returns the modules that packages register as entry points `etude.extensions`.

    `path` is the value of `sys.path`. The result is cached, as reading the packages' metadata is
    slow.
    """
    return sorted({point.value.split(":")[0] for point in entry_points(group="etude.extensions")})


def is_extension(target: str, extensions: Iterable[str]) -> bool:
    """Returns whether `target` is in one of the modules `extensions`, and not in Étude."""
    return not _is_shipped(target) and any(target.startswith(f"{name}.") for name in extensions)


def find_constructor(
    target: str, where: str, extensions: Iterable[str] = (), within_extension: bool = False
) -> Constructor:
    """Returns the description (parameters, types, defaults) of the class that a `_target_` names.

    A class of Étude is looked up in the index, a cache of descriptions; its module is imported only
    if the index does not contain the class. Other modules are imported only if `extensions` allows
    them.

    Args:
        target: the identifier of a shipped class, such as `etude.nn.attention.MultiHeadAttention`,
            or a dotted path into an extension.
        where: the key path of the node, which determines the allowed shipped classes.
        extensions: the user's modules that are also allowed.
        within_extension: whether the node is an argument of a class from an extension. Étude does
            not know which classes such an argument accepts, so all shipped classes are allowed.

    Raises:
        RequestError: the target is not allowed at the key path, or does not exist.
    """
    location = _location(target, where, extensions, within_extension)
    is_shipped = not is_extension(target, extensions)
    constructor = lookup(location) if is_shipped else None
    if constructor is not None:
        return constructor
    try:
        constructor = describe_class(_import(location, target, where), location)
    except ValueError as error:  # some built-in classes have no signature
        expected = "a class whose constructor arguments Python can inspect (inspect.signature)"
        raise RequestError(Problem(f"{where}._target_", expected, target)) from error
    if is_shipped:
        add_to_index(constructor)
    return constructor


def import_class(constructor: Constructor, target: str, where: str) -> Callable[..., Any]:
    """Imports the class that `constructor` describes, and returns the class.

    Args:
        constructor: the description of the class.
        target: the class' `_target_` in the config, for messages.
        where: the key path of the node, for messages.

    Raises:
        RequestError: the module cannot be imported.
    """
    return _import(constructor.location, target or constructor.location, where)


def resolve_class(target: str, where: str, extensions: Iterable[str] = ()) -> Callable[..., Any]:
    """Imports and returns the class that a `_target_` names.

    The arguments and errors are those of `find_constructor`.
    """
    return _import(_location(target, where, extensions, False), target, where)


def _location(target: str, where: str, extensions: Iterable[str], within_extension: bool) -> str:
    """Checks that a `_target_` is allowed at a key path, and returns the dotted path of its class.

    The class is imported from the dotted path. The arguments and errors are those of
    `find_constructor`.
    """
    if not isinstance(target, str):
        raise RequestError(Problem(f"{where}._target_", "a dotted path to a class", target))
    if is_extension(target, extensions):
        return target
    slot = table().slot(where)
    if slot is not None:
        choices = table().slots[slot]
    else:
        choices = table().everything() if within_extension else frozenset()
    if "." not in target:
        hint = _suggest_same_name(target, choices)
        raise RequestError(Problem(f"{where}._target_", "a dotted path to a class", target, hint))
    if target in choices:
        return table().location(target)
    raise RequestError(_refused(target, where, choices))


def is_factory(where: str) -> bool | None:
    """Returns whether the node at a key path is a factory (`_partial_: true`).

    Returns None if the key path has no shipped classes, so that both are allowed.
    """
    slot = table().slot(where)
    return None if slot is None else slot in table().factories


def _is_shipped(target: str) -> bool:
    return target.startswith(f"{PACKAGE}.")


def _refused(target: str, where: str, choices: Iterable[str]) -> Problem:
    key = f"{where}._target_"
    module = target.split(".")[0]
    if not _is_shipped(target) and target not in table().everything():
        hint = (
            f"to allow this module in your own config, set extensions=[{module}]; to allow it in a "
            f"saved run, pass trust=[{module!r}] or --trust {module}; read its code first, as it "
            "can do anything on this machine"
        )
        return Problem(key, "a class of etude or of a module in `extensions`", target, hint)
    if not choices:
        return Problem(key, "no _target_", target, f"{where} takes a value, not a class")
    choice = _suggest_same_name(target, choices) or nearest(target, choices)
    return Problem(key, f"a class that is allowed in {where}", target, choice)


def _suggest_same_name(target: str, choices: Iterable[str]) -> str | None:
    name = target.rpartition(".")[2]
    return next((f"did you mean {each}?" for each in choices if each.endswith(f".{name}")), None)


def _import(location: str, target: str, where: str) -> Callable[..., Any]:
    module_name, _, name = location.rpartition(".")
    try:
        module = importlib.import_module(module_name)
        value: Any = getattr(module, name, None)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists, but imports one that does not
        raise RequestError(
            Problem(f"{where}._target_", "a class in a module that can be imported", target)
        ) from error
    except (Exception, SystemExit) as error:
        if _is_shipped(target):
            raise
        expected = "a class of a module that can be imported without an error"
        line = find_user_line(error)
        reason = f"{line}: {summarize_exception(error)}" if line else summarize_exception(error)
        raise RequestError(Problem(f"{where}._target_", expected, target, reason)) from error
    if not callable(value):
        names = [n for n, v in vars(module).items() if isinstance(v, type) and n[0] != "_"]
        raise RequestError(
            Problem(f"{where}._target_", f"a class in {module_name}", target, nearest(name, names))
        )
    return value
