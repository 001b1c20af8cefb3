"""What a config may build: the one place that decides about a `_target_` and imports it.

A config is data, and data never names code. In each slot (`model.attention`, `optimizer`, ...) only
the shipped classes that belong there may stand (`etude.config.table`), and classes of the modules
that the user lists under `extensions` (or that an installed package offers under the entry point
`etude.extensions`). A record's own list of extensions does not count: whoever loads a record names
the modules that may be imported (`trust=[...]`, `--trust`). Everything else is refused before
anything is imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from etude.config.constructors import Constructor, describe_class, described, note
from etude.config.table import table
from etude.errors import Problem, RequestError, nearest
from etude.errors import described as in_words

PACKAGE = "etude"


def installed_extensions() -> list[str]:
    """The modules that installed packages offer under the entry point `etude.extensions`."""
    return list(_offered(tuple(sys.path)))


@lru_cache(maxsize=8)
def _offered(path: tuple[str, ...]) -> list[str]:
    """Those of the packages that lie on `path`, whose descriptions are all read."""
    return sorted({point.value.split(":")[0] for point in entry_points(group="etude.extensions")})


def is_extension(target: str, extensions: Iterable[str]) -> bool:
    """Whether `target` lies below one of the modules in `extensions`, and is not Étude's own."""
    return not _is_shipped(target) and any(target.startswith(f"{name}.") for name in extensions)


def described_at(
    target: str, where: str, extensions: Iterable[str] = (), within_extension: bool = False
) -> Constructor:
    """What a config needs to know of the class that a `_target_` names.

    Args:
        target: the identifier of a shipped class, such as `etude.nn.attention.MultiHeadAttention`,
            or a dotted path into an extension.
        where: the key path of the node; it decides which shipped classes may stand there.
        extensions: modules of the user's that may be named too.
        within_extension: the node is an argument of a class from an extension, whose slots are not
            known: any class of the table may stand there.

    Raises:
        RequestError: the target may not stand there, or does not exist. Only a module that may be
            named was imported, and a shipped one only if the index does not have the class.
    """
    location = _location(target, where, extensions, within_extension)
    shipped = not is_extension(target, extensions)
    found = described(location) if shipped else None
    if found is not None:
        return found
    try:
        found = describe_class(_imported(location, target, where), location)
    except ValueError as error:  # classes of the interpreter's own have none
        expected = "a class with a signature"
        raise RequestError(Problem(f"{where}._target_", expected, target)) from error
    if shipped:
        note(found)
    return found


def load(constructor: Constructor, target: str, where: str) -> Callable[..., Any]:
    """The class that was described, imported.

    Raises:
        RequestError: its module cannot be imported.
    """
    return _imported(constructor.location, target or constructor.location, where)


def resolve(target: str, where: str, extensions: Iterable[str] = ()) -> Callable[..., Any]:
    """The class that a `_target_` names; see `described_at`."""
    return _imported(_location(target, where, extensions, False), target, where)


def _location(target: str, where: str, extensions: Iterable[str], within_extension: bool) -> str:
    """Where the class is imported that may stand in a place."""
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
        hint = _of_that_name(target, choices)
        raise RequestError(Problem(f"{where}._target_", "a dotted path to a class", target, hint))
    if target in choices:
        return table().location(target)
    raise RequestError(_refused(target, where, choices))


def is_factory(where: str) -> bool | None:
    """Whether the node at a key path is a factory (`_partial_: true`); None if no slot is there."""
    slot = table().slot(where)
    return None if slot is None else slot in table().factories


def _is_shipped(target: str) -> bool:
    return target.startswith(f"{PACKAGE}.")


def _refused(target: str, where: str, choices: Iterable[str]) -> Problem:
    key = f"{where}._target_"
    module = target.split(".")[0]
    if not _is_shipped(target) and target not in table().everything():
        hint = (
            f"extensions=[{module}] allows it in a config of your own, "
            f"trust=[{module!r}] or --trust {module} in a record; code that is trusted can do "
            "anything, so read it first"
        )
        return Problem(key, "a class of etude or of a module in `extensions`", target, hint)
    if not choices:
        return Problem(key, "a plain value: no class belongs here", target)
    choice = _of_that_name(target, choices) or nearest(target, choices)
    return Problem(key, f"a class that belongs in {where}", target, choice)


def _of_that_name(target: str, choices: Iterable[str]) -> str | None:
    name = target.rpartition(".")[2]
    return next((f"did you mean {one}?" for one in choices if one.endswith(f".{name}")), None)


def _imported(location: str, target: str, where: str) -> Callable[..., Any]:
    module_name, _, name = location.rpartition(".")
    try:
        module = importlib.import_module(module_name)
        value: Any = getattr(module, name, None)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists, but something that it needs does not
        raise RequestError(
            Problem(f"{where}._target_", "a module that can be imported", target)
        ) from error
    except (Exception, SystemExit) as error:
        if _is_shipped(target):
            raise
        expected = f"{module_name} to import without an error"
        raise RequestError(
            Problem(f"{where}._target_", expected, target, in_words(error))
        ) from error
    if not callable(value):
        names = [n for n, v in vars(module).items() if isinstance(v, type) and n[0] != "_"]
        raise RequestError(
            Problem(f"{where}._target_", f"a class in {module_name}", target, nearest(name, names))
        )
    return value
