"""Config nodes: checks them against their constructors, and builds objects from them.

`check` converts a composed config into a tree of `Node`s. Each value is converted to the annotated
type of the constructor's parameter; arguments equal to the default are omitted. The same tree is
hashed into the signature (`canonical`) and built (`Node.build`), so the signature covers all that
is built.
"""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from etude.config.constructors import NO_DEFAULT, Constructor, Parameter, describe_class, record_in
from etude.config.equivalents import equivalent_of, equivalent_value, suggest_sweep
from etude.config.paths import conf_dir
from etude.config.table import table
from etude.config.targets import find_constructor, import_class, is_extension, is_factory
from etude.config.type_names import describe_type, is_union, takes_bool, takes_list
from etude.errors import (
    InvalidArguments,
    Problem,
    RequestError,
    nearest,
    nearest_of,
    summarize_exception,
)

if TYPE_CHECKING:
    from etude.contracts.contract import Contract

_META_KEYS = ("_target_", "_partial_")


@dataclass
class Node:
    """A constructor and the arguments that the config sets.

    Attributes:
        where: the key path, such as `model.position`.
        target: the `_target_` in the config; empty for a dataclass argument.
        description: description of the constructor.
        partial: whether this is a factory, whose caller passes the remaining arguments.
        arguments: values, nested nodes, and lists or dictionaries of either; without defaults.
    """

    where: str
    target: str
    description: Constructor
    partial: bool
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Whether the target is a class of this package."""
        return self.target.startswith("etude.")

    @property
    def constructor(self) -> Any:
        """The class, imported on access."""
        return import_class(self.description, self.target, self.where)

    def takes(self, name: str) -> bool:
        """Returns whether the constructor accepts an argument called `name`."""
        description = _describe(self.constructor)
        return description.open_ended or name in description.parameters

    def build(self, **given: Any) -> Any:
        """Builds the object, or a `Factory` if the node is partial.

        Args:
            **given: further arguments, in addition to those in the config; they replace arguments
                of the same name.

        Raises:
            RequestError: the constructor refuses an argument; the message has the full key path.
        """
        arguments = {key: _build_value(value) for key, value in self.arguments.items()} | given
        factory = Factory(self.where, self.constructor, arguments)
        return factory if self.partial else factory()

    def canonical(self) -> dict[str, Any]:
        """Returns the node's `_target_` and arguments as plain data, which is hashed into the
        signature.
        """
        head: dict[str, Any] = {"_target_": self.target} if self.target else {}
        return head | {key: _canonical(value) for key, value in self.arguments.items()}


@dataclass
class Factory:
    """A constructor with some of its arguments; a call passes the others and builds the object.

    Errors contain the key path of the node in the config.

    Attributes:
        where: the key path of the node.
        constructor: the class.
        arguments: the arguments that are set.
    """

    where: str
    constructor: Callable[..., Any]
    arguments: dict[str, Any]

    def __call__(self, **given: Any) -> Any:
        arguments = self.arguments | given
        try:
            inspect.signature(self.constructor).bind(**arguments)
        except TypeError as error:  # a class for another key
            raise self._not_accepted(error) from error
        try:
            instance = self.constructor(**arguments)
        except InvalidArguments as error:
            raise RequestError(self._located(each, given) for each in error.problems) from error
        except TypeError as error:  # a constructor with **kwargs passed one on
            name = _unexpected(error)
            if name in given:
                raise self._not_accepted(error) from error
            if name is None or name not in self.arguments:
                raise self._refused(error) from error
            expected = f"an argument of {getattr(self.constructor, '__name__', 'the class')}"
            hint = nearest_of(name, _argument_names(self.constructor))
            where, value = f"{self.where}.{name}", self.arguments[name]
            raise RequestError(Problem(where, expected, value, hint)) from error
        except (RequestError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            raise self._refused(error) from error
        self._check(instance)
        return instance

    def _located(self, problem: Problem, given: Mapping[str, Any]) -> Problem:
        """Returns a copy of a problem of the constructor, with the full key path.

        For one of the arguments `given` by the caller, a hint names the caller.
        """
        located = problem.under(self.where)
        owner = self.where.partition(".")[0]
        if problem.where not in given or problem.hint:
            return located
        return replace(located, hint=f"the {owner} passes this argument")

    def _not_accepted(self, error: TypeError) -> RequestError:
        """Returns the exception to raise if the constructor does not accept an argument."""
        name, owner = _unexpected(error), self.where.partition(".")[0]
        hint = str(error)
        if name is not None and name not in self.arguments and owner != self.where:
            hint = f"accept the argument {name}, which the {owner} passes"
            kinds = table().slots.get(owner, ())
            if any(name in find_constructor(kind, owner).parameters for kind in kinds):
                hint += f", or unset {owner}.{name}"
        location = describe_class(self.constructor).location
        expected = "a class that accepts the arguments passed to it"
        return RequestError(Problem(f"{self.where}._target_", expected, location, hint))

    def _check(self, instance: Any) -> None:
        """Checks that an instance of a user's class has the interface that its key requires.

        `etude.contracts.slots` lists the interfaces by key. Other keys, and instances of Étude's
        classes, are not checked.

        Raises:
            RequestError: the instance lacks attributes or methods.
        """
        if self._is_ours():
            return
        contract = _contract_at(self.where)
        if contract is not None and (missing := list(contract.problems_of(instance, self.where))):
            raise RequestError(missing)

    def unset_arguments(self) -> frozenset[str]:
        """Returns the names of the constructor's arguments that are not set in the factory."""
        return frozenset(_describe(self.constructor).parameters.keys() - self.arguments.keys())

    def _is_ours(self) -> bool:
        """Returns whether the class is part of Étude; such classes check their arguments
        themselves.
        """
        return str(self.constructor.__module__).startswith("etude.")

    def _refused(self, error: BaseException) -> BaseException:
        """Returns the exception to raise after the constructor raised `error`.

        For a class of Étude, this is `error` itself, as the class has a bug. For a user's class, it
        is a `RequestError` with the key path of the node.
        """
        if self._is_ours():
            return error  # a bug of Étude, as its classes report invalid arguments themselves
        name = getattr(self.constructor, "__name__", "the class")
        return RequestError(
            Problem(self.where, f"arguments that {name} accepts", hint=summarize_exception(error))
        )


def _unexpected(error: TypeError) -> str | None:
    """Returns the name of the argument that a function does not accept, from its exception."""
    match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return match and match[1]


def _argument_names(constructor: Any) -> set[str]:
    """Returns the names of the arguments of a class and of its base classes.

    A class with `**kwargs` may pass arguments to its base classes.
    """
    kinds = [each for each in getattr(constructor, "__mro__", ()) if "__init__" in vars(each)]
    names = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}
    return names - {"self", "args", "kwargs"}


@cache
def _describe(constructor: Callable[..., Any]) -> Constructor:
    return describe_class(constructor)


def check_node(
    where: str, value: Any, extensions: Iterable[str], *, within_extension: bool = False
) -> tuple[Any, list[Problem]]:
    """Returns the `Node` that a mapping with `_target_` describes, and the problems of the mapping.

    Args:
        where: the key path, which determines the allowed classes.
        value: the mapping, as plain data.
        extensions: the user's modules, whose classes are allowed at all keys.
        within_extension: whether the node is an argument of a class from an extension.

    Returns:
        The node (None if its target is not valid) and the problems.
    """
    if not isinstance(value, Mapping) or "_target_" not in value:
        named = where.split(".") if where.startswith(("callbacks.", "logger.")) else []
        group = "=".join(named) or f"{where.replace('.', '/')}=..."
        hint = f"to choose a config file, use {group}"
        if isinstance(value, Mapping):
            hint = f"add `_target_: CLASS`, or {hint}"
        return None, [Problem(where, "a mapping with the key _target_", value, hint)]
    try:
        constructor = find_constructor(value["_target_"], where, extensions, within_extension)
    except RequestError as error:
        return None, error.problems
    partial = bool(value.get("_partial_", False))
    must_be_partial = is_factory(where)
    if must_be_partial is not None and partial is not must_be_partial:
        expected = "true" if must_be_partial else "false"
        hint_ = "the other arguments are set when the object is built" if must_be_partial else None
        actual = value.get("_partial_", False)
        return None, [Problem(f"{where}._partial_", expected, actual, hint_)]
    arguments = {key: v for key, v in value.items() if key not in _META_KEYS}
    is_foreign = is_extension(value["_target_"], extensions)
    missing: list[Problem] = []
    if is_foreign and (contract := _contract_at(where)) is not None:
        kind = import_class(constructor, value["_target_"], where)
        missing = list(contract.problems(kind, where, value["_target_"]))
        if contract.is_unrelated(kind):
            return None, missing
        constructor, arguments = _apply_contract(contract, constructor, arguments)
    node, problems = _check_arguments(
        where, value["_target_"], constructor, partial, arguments, extensions,
        within_extension or is_foreign,
    )  # fmt: skip
    return node, missing + problems


def _contract_at(where: str) -> Contract | None:
    """Returns the contract (the required interface) of the classes that a key path accepts.

    Returns None if the key path has no contract.
    """
    from etude.contracts.slots import CONTRACTS  # only needed for users' classes

    return CONTRACTS.get(table().slot(where) or "")


def _apply_contract(
    contract: Contract, constructor: Constructor, arguments: dict[str, Any]
) -> tuple[Constructor, dict[str, Any]]:
    """Returns which arguments of a user's class the config sets, and which ones Étude passes.

    The contract lists the arguments that Étude passes when it builds the object; a config must not
    set them. Exceptions are the contract's open arguments: a config may set them, and Étude passes
    an open argument only if the config omits it or sets it to null.

    Args:
        contract: the interface that the config key requires.
        constructor: the description of the class.
        arguments: the arguments that the config sets.

    Returns:
        The description of the class without the open arguments that Étude passes; its attribute
        `given` contains the other arguments that Étude passes. And the arguments that the config
        sets, without open arguments that are null.
    """
    omitted = {name for name in contract.open if arguments.get(name) is None}
    parameters = {n: p for n, p in constructor.parameters.items() if n not in omitted}
    given = contract.arguments.keys() - contract.open | (constructor.given or frozenset())
    remaining = {key: value for key, value in arguments.items() if key not in omitted}
    return replace(constructor, parameters=parameters, given=frozenset(given)), remaining


def _check_arguments(
    where: str,
    target: str,
    constructor: Constructor,
    partial: bool,
    arguments: Mapping[str, Any],
    extensions: Iterable[str],
    within: bool,
) -> tuple[Node, list[Problem]]:
    problems: list[Problem] = []
    node = Node(where, target, constructor, partial)
    parameters, allowed = constructor.parameters, constructor.settable(partial)
    set_by_caller = set(parameters) - set(allowed)
    for key, value in arguments.items():
        path = f"{where}.{key}"
        if key in set_by_caller:
            owner = where.split(".")[0]
            hint = (
                f"the {owner} sets this argument; to change it, set {owner}.{key}"
                if owner != where
                else "this argument is set automatically"
            )
            problems.append(Problem(path, "no value", value, hint))
        elif key in constructor.refused:
            problems.append(Problem(path, "no value", value, constructor.refused[key]))
        elif key not in parameters and not constructor.open_ended:
            expected = f"an argument of {constructor.name}"
            suggestion = _argument_hint(where, key, value, allowed)
            problems.append(Problem(path, expected, value, suggestion))
        else:
            # Equivalent values must have the same signature.
            value = constructor.aliases.get(key, {}).get(str(value), value)
            parameter = parameters.get(key, Parameter(key, NO_DEFAULT, Any))
            checked, value_problems = _check_value(path, value, parameter.hint, extensions, within)
            problems += value_problems
            default = parameter.default
            if not value_problems and not _is_same(checked, default):
                node.arguments[key] = checked
    for name in allowed:
        if parameters[name].default is NO_DEFAULT and name not in arguments:
            problems.append(
                Problem(f"{where}.{name}", "a value", hint="the argument has no default")
            )
    return node, problems


def _check_value(
    path: str, value: Any, hint: Any, extensions: Iterable[str], within: bool
) -> tuple[Any, list[Problem]]:
    if value == "???":
        return None, [Problem(path, "a value", hint=f"set {path}=...")]
    if isinstance(value, Mapping) and "_target_" in value:
        return check_node(path, value, extensions, within_extension=within)
    record = record_in(hint)
    if record is not None and isinstance(value, Mapping):
        return _check_arguments(path, "", record, False, value, extensions, within)
    if record is not None and not (value is None and is_union(hint)):
        keys = ", ".join(record.parameters)
        settings = " or ".join(f"{path}.{key}=..." for key in list(record.parameters)[:3])
        return None, [Problem(path, f"a mapping with the keys {keys}", value, f"set {settings}")]
    each = _value_type_in(hint)
    nested = isinstance(value, Mapping) and any(isinstance(v, Mapping) for v in value.values())
    if isinstance(value, Mapping) and (nested or record_in(each) is not None):
        checked: dict[str, Any] = {}
        problems: list[Problem] = []
        for key, inner in value.items():
            checked[key], inner_problems = _check_value(
                f"{path}.{key}", inner, each, extensions, within
            )
            problems += inner_problems
        return checked, problems
    too_long = isinstance(value, int) and not -(2**63) <= value < 2**63
    if too_long and path.startswith("model."):  # it would be the size of a tensor
        return None, [Problem(path, "a 64-bit integer", value)]
    if isinstance(value, bool) and not takes_bool(hint):  # pydantic would convert true to 1
        return None, [Problem(path, describe_type(hint), value)]
    try:
        return _adapter(hint).validate_python(value), []
    except ValidationError:
        if isinstance(value, Mapping) and table().slot(path) is not None:
            return check_node(path, value, extensions)  # reports the missing `_target_`
        return None, [Problem(path, describe_type(hint), value, _value_hint(path, value, hint))]
    except TypeError:  # pydantic does not support the annotation; the constructor checks the value
        return value, []


def fits(value: Any, hint: Any) -> bool:
    """Returns whether a value has an annotation's type, without converting the value."""
    try:
        _adapter(hint).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    config = ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True)
    try:
        return TypeAdapter(hint, config=config)
    except Exception as error:  # pydantic raises many types for unsupported annotations
        raise TypeError(str(error)) from error


def _value_type_in(hint: Any) -> Any:
    """Returns the dataclass D if an annotation is `dict[..., D]` or a union that contains it.

    Returns `Any` for other annotations.
    """
    options = typing.get_args(hint) if is_union(hint) else (hint,)
    kinds = (typing.get_args(o)[1] for o in options if typing.get_origin(o) is dict)
    return next((kind for kind in kinds if record_in(kind) is not None), Any)


def _argument_hint(where: str, key: str, value: Any, allowed: Sequence[str]) -> str | None:
    """Returns a hint for a key that is no argument of the class at `where`; None if there is none.

    Args:
        where: the key path of the class.
        key, value: the key and its value.
        allowed: names of the class's arguments.
    """
    if key in ("name", "type", "kind", "class_name") and (hint := _file_hint(where, value)):
        return hint
    if key in ("file", "files", "data_path", "data_file", "data_files") and "path" in allowed:
        return "did you mean path?"
    return equivalent_of(f"{where}.{key}", value) or nearest(key, allowed)


def _value_hint(path: str, value: Any, hint: Any) -> str | None:
    """Returns a hint for a value that does not have the type `hint`; None if there is none."""
    return (
        equivalent_value(path, value)
        or _choice_hint(hint, value)
        or _file_hint(path, value)
        or (None if takes_list(hint) else suggest_sweep(path, value))
    )


def _choice_hint(hint: Any, value: Any) -> str | None:
    options = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return nearest_of(str(value), map(str, options)) if options else None


def _file_hint(path: str, value: Any) -> str | None:
    """Returns a hint that shows how to choose a config file, if the value is the name of one.

    Returns None for other values. `path` is the key path of the value.
    """
    group = path.replace(".", "/")
    exists = isinstance(value, str) and (conf_dir() / group / f"{value}.yaml").is_file()
    return f"to choose the file {value}.yaml, use {group}={value}" if exists else None


def _build_value(value: Any) -> Any:
    if isinstance(value, Node):
        return value.build()
    if isinstance(value, dict):
        return {key: _build_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_build_value(inner) for inner in value]
    return value


def _canonical(value: Any) -> Any:
    if isinstance(value, Node):
        return value.canonical()
    if isinstance(value, Mapping):
        return {str(key): _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    if isinstance(value, float):
        return int(value) if value.is_integer() else value if math.isfinite(value) else str(value)
    return value


def _is_same(value: Any, default: Any) -> bool:
    if default is NO_DEFAULT or isinstance(value, Node):
        return False
    if isinstance(value, bool) is not isinstance(default, bool):
        return False
    return bool(_canonical(value) == _canonical(default))
