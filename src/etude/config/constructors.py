"""What a config needs to know of a class: its parameters, their types and defaults.

Classes of Étude and Lightning are described in an index, a file in the cache, so that a config is
checked without importing them, and torch with them. The index is made as classes are imported, and
is of one source: another, or other versions of torch and Lightning, begin another.
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

from etude.config.describe import is_union
from etude.sources import source_hash

EMPTY = inspect.Parameter.empty
_new: list[str] = []
_PLAIN = {kind.__name__: kind for kind in (int, float, str, bool, bytes, object)}
_PACKAGES = ("torch", "pytorch-lightning")


@dataclass(frozen=True)
class Parameter:
    """Of a constructor.

    Attributes:
        default: `EMPTY` where there is none.
        hint: its annotation, `Any` without one. From the index, classes in it are others of the
            same name, of which nothing is an instance.
    """

    name: str
    default: Any
    hint: Any


@dataclass(frozen=True)
class Constructor:
    """A class as a config sees it.

    Attributes:
        name: of the class.
        location: the dotted path at which it is imported.
        parameters: by name, in their order; without those that collect any others.
        open_ended: it takes any other argument too.
        given: what a part's user gives, where the class says so.
        refused: arguments that must not be stated, and what to do instead.
        aliases: of an argument, values that stand for others.
        pins: it has a method `pinned`; see `etude.config.pins`.
    """

    name: str
    location: str
    parameters: Mapping[str, Parameter]
    open_ended: bool = False
    given: frozenset[str] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pins: bool = False

    def settable(self, partial: bool) -> list[str]:
        """The arguments that a config may state: all, or of a factory those its user leaves.

        A class may say which ones its user gives, by a set `given` of their names; else they are
        those without a default.
        """
        without = {name for name, p in self.parameters.items() if p.default is EMPTY}
        given = (without if self.given is None else self.given) if partial else ()
        return [name for name in self.parameters if name not in given]


def describe_class(constructor: Any, location: str = "") -> Constructor:
    """The description of a class that is imported.

    Raises:
        ValueError: it has no signature, as some of the interpreter's own have none.
    """
    parameters = dict(inspect.signature(constructor).parameters)
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    try:
        hints = _hints(constructor)
    except (NameError, TypeError):  # an annotation that names what only a type checker imports
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
    )


def _hints(constructor: Any) -> dict[str, Any]:
    """The annotations of the parameters.

    A constructor that `dataclass` has written is annotated by names of the modules that declare the
    fields, which need not be known where the class stands.
    """
    if not isinstance(constructor, type):
        return typing.get_type_hints(constructor)
    owner = next(cls for cls in constructor.__mro__ if "__init__" in vars(cls))
    init: Any = owner.__init__  # type: ignore[misc]
    made = vars(owner).get("__dataclass_params__")
    if made is None or not made.init:
        return typing.get_type_hints(init)
    fields = typing.get_type_hints(owner)
    return {name: fields[name] for name in init.__annotations__ if name in fields}


def described(location: str) -> Constructor | None:
    """A class as the index has it; None where it is not there."""
    module = location.rpartition(".")[0]
    if module in sys.modules:  # as it is imported, that is the better source
        return None
    return _index().get(location)


def note(constructor: Constructor) -> None:
    """Puts a class into the index; `save` keeps it."""
    if constructor.location not in _index():
        _index()[constructor.location] = constructor
        _new.append(constructor.location)


def save() -> None:
    """Keeps what is new in the index for the processes to come."""
    file = _file()
    if file is None or not _new:
        return
    _new.clear()
    packed = {name: _packed(one) for name, one in sorted(_index().items())}
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(packed), encoding="utf-8")
        beside.replace(file)
    except OSError:  # the next process imports the classes again
        with suppress(OSError):
            beside.unlink()


def cache_folder() -> Path:
    """`$ETUDE_CACHE`, or `~/.cache/etude`."""
    return Path(os.path.expanduser(os.environ.get("ETUDE_CACHE") or "~/.cache/etude"))


def record_in(hint: Any) -> Constructor | None:
    """The dataclass in an annotation, or in one that may also be null."""
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
        return {name: _unpacked(one) for name, one in packed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or a broken one
        return {}


@cache
def _file() -> Path | None:
    """The index of this source and these versions."""
    try:
        versions = [version(name) for name in _PACKAGES]
        python = ".".join(map(str, sys.version_info[:3]))
        return (
            cache_folder() / "constructors" / f"{'-'.join([source_hash(), python, *versions])}.json"
        )
    except (PackageNotFoundError, OSError, RuntimeError):  # no home
        return None


def _packed(constructor: Constructor) -> dict[str, Any]:
    given = constructor.given
    parameters = {
        p.name: [_packed_hint(p.hint), *([] if p.default is EMPTY else [p.default])]
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
    }


def _unpacked(packed: Mapping[str, Any]) -> Constructor:
    given = packed["given"]
    parameters = {
        name: Parameter(name, default[0] if default else EMPTY, _unpacked_hint(hint))
        for name, (hint, *default) in packed["parameters"].items()
    }
    told = {
        **packed,
        "parameters": parameters,
        "given": None if given is None else frozenset(given),
    }
    return Constructor(**told)


def _packed_hint(hint: Any) -> Any:
    """An annotation as plain data."""
    if hint is Any or hint is type(None):
        return "Any" if hint is Any else "None"
    name = getattr(hint, "__name__", str(hint))
    if _PLAIN.get(name) is hint:
        return name
    origin: Any = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is typing.Literal:
        return {"literal": list(arguments)}
    if (record := None if is_union(hint) else record_in(hint)) is not None:
        return {"record": _packed(record)}
    kind = "any_of" if is_union(hint) else getattr(origin, "__name__", "")
    if kind in _KINDS:
        return {kind: [_packed_hint(one) for one in arguments]}
    if origin is Callable:
        return "Callable"
    return {"class": name}


def _unpacked_hint(packed: Any) -> Any:
    if isinstance(packed, str):
        return {"Any": Any, "None": type(None), "Callable": Callable[..., Any], **_PLAIN}[packed]
    ((kind, inner),) = packed.items()
    if kind == "literal":
        return typing.Literal[tuple(inner)]
    if kind == "record":
        described = _unpacked(inner)
        return type(described.name, (_Record,), {"_described": described})
    if kind == "class":
        return type(inner, (), {})
    return _KINDS[kind](tuple(_unpacked_hint(one) for one in inner))


@dataclass
class _Record:
    """Stands for a dataclass that is not imported."""


_KINDS: Mapping[str, Callable[[tuple[Any, ...]], Any]] = {
    "any_of": lambda options: typing.Union[options],  # noqa: UP007
    "list": lambda of: types.GenericAlias(list, of),
    "dict": lambda of: types.GenericAlias(dict, of),
    "tuple": lambda of: types.GenericAlias(tuple, of),
}
