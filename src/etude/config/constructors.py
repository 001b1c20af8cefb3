"""Descriptions of constructors: their parameters, types and defaults.

An index, a file in the cache, contains descriptions of classes of Étude and Lightning, so that a
config can be checked without importing these classes and torch. Classes are added to the index when
they are imported. Each version of Étude's source, torch and Lightning has its own index.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from etude.config.type_names import is_union
from etude.sources import source_hash

NO_DEFAULT = inspect.Parameter.empty
_unsaved: list[str] = []
_BUILTINS = {kind.__name__: kind for kind in (int, float, str, bool, bytes, object)}
_PACKAGES = ("torch", "pytorch-lightning")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a constructor.

    Attributes:
        name: the parameter's name.
        default: the default value, or `NO_DEFAULT`.
        hint: the annotation, or `Any`. If the description of the constructor was read from the
            index on disk, and not by importing the class, empty placeholder classes of the same
            name stand for the classes in the annotation.
    """

    name: str
    default: Any
    hint: Any


@dataclass(frozen=True)
class Constructor:
    """Description of a class that a config can name: its parameters, and rules for their values.

    Attributes:
        name: the class' name.
        location: the dotted path from which it is imported.
        parameters: the parameters by name, in order; without `*args` and `**kwargs`.
        open_ended: whether the class accepts any keyword argument.
        given: names of the arguments that the caller of a factory (`_partial_: true`) passes; None
            if the class does not list them.
        refused: arguments that a config must not set: a dictionary from the argument's name to a
            hint for the error message.
        aliases: for some arguments, a dictionary from each value to an equivalent value that
            replaces it.
        pins: whether the class has a method `pinned`, which replaces mutable references in its
            arguments, such as a branch, by commits; see `etude.config.pinning`.
        observes: whether objects of the class only measure, so that they are not part of a run's
            signature.
    """

    name: str
    location: str
    parameters: Mapping[str, Parameter]
    open_ended: bool = False
    given: frozenset[str] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pins: bool = False
    observes: bool = False

    def settable(self, partial: bool) -> list[str]:
        """Returns the names of the arguments that a config may set.

        For a class, these are all arguments. For a factory, the arguments that its caller passes
        are left out: those in the attribute `given` or, if it is None, all without a default.

        Args:
            partial: whether the node is a factory (`_partial_: true`).
        """
        without = {name for name, p in self.parameters.items() if p.default is NO_DEFAULT}
        given = (without if self.given is None else self.given) if partial else ()
        return [name for name in self.parameters if name not in given]


def describe_class(constructor: Any, location: str = "") -> Constructor:
    """Returns the description of an imported class: its parameters with types and defaults.

    Args:
        constructor: the class.
        location: the dotted path from which the class is imported; if empty, the path of the
            class' definition.

    Raises:
        ValueError: the class has no signature, as is the case for some built-in classes.
    """
    parameters = dict(inspect.signature(constructor).parameters)
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    try:
        hints = _hints(constructor)
    except (NameError, TypeError):  # an annotation uses a name imported for type checkers only
        hints = {}
    return Constructor(
        getattr(constructor, "__name__", str(constructor)),
        location or f"{constructor.__module__}.{getattr(constructor, '__qualname__', '')}",
        {
            name: Parameter(name, p.default, hints.get(name, Any))
            for name, p in parameters.items()
            if p.kind not in kinds and name != "self"
        },
        open_ended=any(p.kind is p.VAR_KEYWORD for p in parameters.values()),
        given=getattr(constructor, "given", None),
        refused=getattr(constructor, "refused", {}),
        aliases=getattr(constructor, "aliases", {}),
        pins=hasattr(constructor, "pinned"),
        observes=getattr(constructor, "observes", False) is True,
    )


def _hints(constructor: Any) -> dict[str, Any]:
    """Returns a dictionary from the names of a constructor's parameters to their annotations.

    For a dataclass, the annotation of an inherited field is resolved in the module of the base
    class that defines the field. The module of the subclass may not contain the names in the
    annotation.
    """
    if not isinstance(constructor, type):
        return typing.get_type_hints(constructor)
    owner = next(cls for cls in constructor.__mro__ if "__init__" in vars(cls))
    init: Any = owner.__init__  # type: ignore[misc]
    params = vars(owner).get("__dataclass_params__")
    if params is None or not params.init:
        return typing.get_type_hints(init)
    fields = typing.get_type_hints(owner)
    return {name: fields[name] for name in init.__annotations__ if name in fields}


def lookup(location: str) -> Constructor | None:
    """Looks up the description of a class in the index, the cache of descriptions.

    Returns None if the index does not contain the class. Also returns None if the class' module is
    imported already, because the class itself has exact annotations. `location` is the dotted path
    of the class.
    """
    module = location.rpartition(".")[0]
    if module in sys.modules:  # the imported class has the real annotations
        return None
    return _index().get(location)


def add_to_index(constructor: Constructor) -> None:
    """Adds the description of a class to the index, the cache of descriptions.

    Only the index in memory is changed; `save_index` writes it to its file.
    """
    if constructor.location not in _index():
        _index()[constructor.location] = constructor
        _unsaved.append(constructor.location)


def save_index() -> None:
    """Writes the index to the cache if descriptions were added."""
    file = _file()
    if file is None or not _unsaved:
        return
    _unsaved.clear()
    packed = {name: _pack(constructor) for name, constructor in sorted(_index().items())}
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(packed), encoding="utf-8")
        temporary.replace(file)
    except OSError:  # the next process imports the classes again
        with suppress(OSError):
            temporary.unlink()


def cache_folder() -> Path:
    """Returns the cache folder: `$ETUDE_CACHE`, or `~/.cache/etude`."""
    return Path(os.path.expanduser(os.environ.get("ETUDE_CACHE") or "~/.cache/etude"))


def record_in(hint: Any) -> Constructor | None:
    """Returns the description of the dataclass in a type annotation.

    For `Options | None`, this is the description of `Options`. In a union of several dataclasses,
    the first one counts. Returns None for other annotations, including `list[Options]`.
    """
    for option in typing.get_args(hint) if is_union(hint) else (hint,):
        if dataclasses.is_dataclass(option) and isinstance(option, type):
            known: Constructor | None = option.__dict__.get("_described")
            return known or describe_class(option)
    return None


@cache
def _index() -> dict[str, Constructor]:
    file = _file()
    try:
        packed = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
        return {name: _unpack(entry) for name, entry in packed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing or damaged
        return {}


@cache
def _file() -> Path | None:
    """Returns the path of the file that stores the index, the cache of descriptions.

    Each combination of versions of Étude's source, Python and other packages has its own file.

    Returns None if the path cannot be determined, for example without a home folder.
    """
    try:
        versions = [version(name) for name in _PACKAGES]
        python = ".".join(map(str, sys.version_info[:3]))
        return (
            cache_folder() / "constructors" / f"{'-'.join([source_hash(), python, *versions])}.json"
        )
    except (PackageNotFoundError, OSError, RuntimeError):  # for example, no home folder
        return None


def _pack(constructor: Constructor) -> dict[str, Any]:
    given = constructor.given
    parameters = {
        p.name: [_pack_hint(p.hint), *([] if p.default is NO_DEFAULT else [p.default])]
        for p in constructor.parameters.values()
    }
    return {
        "name": constructor.name,
        "location": constructor.location,
        "parameters": parameters,
        "open_ended": constructor.open_ended,
        "given": None if given is None else sorted(given),
        "refused": dict(constructor.refused),
        "aliases": {name: dict(values) for name, values in constructor.aliases.items()},
        "pins": constructor.pins,
        "observes": constructor.observes,
    }


def _unpack(packed: Mapping[str, Any]) -> Constructor:
    given = packed["given"]
    parameters = {
        name: Parameter(name, default[0] if default else NO_DEFAULT, _unpack_hint(hint))
        for name, (hint, *default) in packed["parameters"].items()
    }
    fields = {
        **packed,
        "parameters": parameters,
        "given": None if given is None else frozenset(given),
    }
    return Constructor(**fields)


def _pack_hint(hint: Any) -> Any:
    """Converts a type annotation to plain data for JSON; `_unpack_hint` is the inverse."""
    if hint is Any or hint is type(None):
        return "Any" if hint is Any else "None"
    name = getattr(hint, "__name__", str(hint))
    if _BUILTINS.get(name) is hint:
        return name
    origin: Any = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is typing.Literal:
        return {"literal": list(arguments)}
    if (record := None if is_union(hint) else record_in(hint)) is not None:
        return {"record": _pack(record)}
    kind = "any_of" if is_union(hint) else getattr(origin, "__name__", "")
    if kind in _KINDS:
        return {kind: [_pack_hint(argument) for argument in arguments]}
    if origin is Callable:
        return "Callable"
    return {"class": name}


def _unpack_hint(packed: Any) -> Any:
    if isinstance(packed, str):
        return {"Any": Any, "None": type(None), "Callable": Callable[..., Any], **_BUILTINS}[packed]
    ((kind, inner),) = packed.items()
    if kind == "literal":
        return typing.Literal[tuple(inner)]
    if kind == "record":
        description = _unpack(inner)
        return type(description.name, (_Record,), {"_described": description})
    if kind == "class":
        return type(inner, (), {})
    return _KINDS[kind](tuple(_unpack_hint(argument) for argument in inner))


@dataclass
class _Record:
    """Base class of placeholder classes.

    If an annotation is read from the index on disk, a placeholder stands for each dataclass in it,
    so that the dataclass need not be imported.
    """


_KINDS: Mapping[str, Callable[[tuple[Any, ...]], Any]] = {
    "any_of": lambda options: typing.Union[options],  # noqa: UP007
    "list": lambda arguments: types.GenericAlias(list, arguments),
    "dict": lambda arguments: types.GenericAlias(dict, arguments),
    "tuple": lambda arguments: types.GenericAlias(tuple, arguments),
}
