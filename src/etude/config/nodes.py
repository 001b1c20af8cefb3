"""Config nodes checked by the constructors they name, then built by them.

`check` turns a composed config into a tree of `Node`s: every value coerced to the type that the
constructor annotates, arguments equal to the constructor's default left out. The same tree is
hashed into the signature (`canonical`) and built (`Node.build`), so what is hashed is what runs.
"""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from etude.config.constructors import EMPTY, Constructor, Parameter, describe_class, record_in
from etude.config.describe import describe, is_union, takes_bool
from etude.config.paths import conf_dir
from etude.config.table import table
from etude.config.targets import described_at, is_extension, is_factory, load
from etude.errors import InvalidArguments, Problem, RequestError, described, nearest

if TYPE_CHECKING:
    from etude.contracts.contract import Contract

_META_KEYS = ("_target_", "_partial_")


@dataclass
class Node:
    """One constructor and the arguments a config states for it.

    Attributes:
        where: the key path, such as `model.position`.
        target: the dotted name as written; empty for a plain dataclass argument.
        described: what `target` names.
        partial: a factory: built only when its user supplies the remaining arguments.
        arguments: values, nested nodes, and lists or dictionaries of either; defaults left out.
    """

    where: str
    target: str
    described: Constructor
    partial: bool
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Whether it names a class of this package."""
        return self.target.startswith("etude.")

    @property
    def constructor(self) -> Any:
        """The class, which is imported when it is asked for."""
        return load(self.described, self.target, self.where)

    def takes(self, name: str) -> bool:
        """Whether the constructor names an argument, or takes any."""
        described = _described(self.constructor)
        return described.open_ended or name in described.parameters

    def build(self, **given: Any) -> Any:
        """The object, or for a part its factory. `given` fills in what a config cannot know.

        Raises:
            RequestError: the constructor refused its arguments; problems carry full key paths.
        """
        arguments = {key: _built(value) for key, value in self.arguments.items()} | given
        factory = Factory(self.where, self.constructor, arguments)
        return factory if self.partial else factory()

    def canonical(self) -> dict[str, Any]:
        """Plain data that says what would be built, for the signature."""
        head: dict[str, Any] = {"_target_": self.target} if self.target else {}
        return head | {key: _canonical(value) for key, value in self.arguments.items()}


@dataclass
class Factory:
    """A constructor with some arguments fixed, which reports refusals under its key path."""

    where: str
    constructor: Callable[..., Any]
    arguments: dict[str, Any]

    def __call__(self, **given: Any) -> Any:
        arguments = self.arguments | given
        try:
            inspect.signature(self.constructor).bind(**arguments)
        except TypeError as error:  # a part of another kind stands here
            name = getattr(self.constructor, "__name__", str(self.constructor))
            raise RequestError(
                Problem(f"{self.where}._target_", "a class that fits here", name, str(error))
            ) from error
        try:
            made = self.constructor(**arguments)
        except InvalidArguments as error:
            raise RequestError(problem.under(self.where) for problem in error.problems) from error
        except TypeError as error:  # one that takes **anything handed it on
            match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if match is None or match[1] not in self.arguments:
                raise self._refused(error) from error
            name, value = match[1], self.arguments[match[1]]
            expected = f"an argument of {getattr(self.constructor, '__name__', 'it')}"
            raise RequestError(Problem(f"{self.where}.{name}", expected, value)) from error
        except (RequestError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            raise self._refused(error) from error
        self._check(made)
        return made

    def _check(self, made: Any) -> None:
        """Compares what a class of the user's has made with the contract of its place.

        Raises:
            RequestError: something is missing.
        """
        if self._is_ours():
            return
        contract = _contract_at(self.where)
        if contract is not None and (lacking := list(contract.problems_of(made, self.where))):
            raise RequestError(lacking)

    def names_left(self) -> frozenset[str]:
        """The arguments that the constructor names and that nothing is stated for; see
        `etude.nn.parts`.
        """
        return frozenset(_described(self.constructor).parameters.keys() - self.arguments.keys())

    def _is_ours(self) -> bool:
        """Whether the constructor is of this package, whose classes check their arguments."""
        return str(self.constructor.__module__).startswith("etude.")

    def _refused(self, error: BaseException) -> BaseException:
        """What to raise where the constructor raised `error`."""
        if self._is_ours():
            return error  # anything else than a refusal is a mistake of ours
        name = getattr(self.constructor, "__name__", "it")
        return RequestError(
            Problem(self.where, f"arguments that {name} takes", hint=described(error))
        )


@cache
def _described(constructor: Callable[..., Any]) -> Constructor:
    return describe_class(constructor)


def check_node(
    where: str, value: Any, extensions: Iterable[str], *, within_extension: bool = False
) -> tuple[Any, list[Problem]]:
    """The `Node` that the mapping `value` describes, and everything wrong with it.

    Args:
        where: the key path, which decides which classes may stand there.
        value: plain data.
        extensions: modules of the user's whose classes may stand anywhere.
        within_extension: the node is an argument of a class from an extension.
    """
    if not isinstance(value, Mapping) or "_target_" not in value:
        named = where.split(".") if where.startswith(("callbacks.", "logger.")) else []
        group = "=".join(named) or f"{where.replace('.', '/')}=..."
        hint = f"choose a file: {group}"
        return None, [Problem(where, "a node with _target_", value, hint)]
    try:
        described = described_at(value["_target_"], where, extensions, within_extension)
    except RequestError as error:
        return None, error.problems
    partial = bool(value.get("_partial_", False))
    expected = is_factory(where)
    if expected is not None and partial is not expected:
        told = "true: the rest of its arguments is given later" if expected else "false"
        return None, [Problem(f"{where}._partial_", told, value.get("_partial_", False))]
    stated = {key: v for key, v in value.items() if key not in _META_KEYS}
    foreign = is_extension(value["_target_"], extensions)
    lacking: list[Problem] = []
    if foreign and (contract := _contract_at(where)) is not None:
        kind = load(described, value["_target_"], where)
        lacking = list(contract.problems(kind, where, value["_target_"]))
        described, stated = _given_by(contract, described, stated)
    node, problems = _check_arguments(
        where, value["_target_"], described, partial, stated, extensions,
        within_extension or foreign,
    )  # fmt: skip
    return node, lacking + problems


def _contract_at(where: str) -> Contract | None:
    """The contract of the classes that may stand at a key path."""
    from etude.contracts.slots import CONTRACTS  # needed by classes of the user's alone

    return CONTRACTS.get(table().slot(where) or "")


def _given_by(
    contract: Contract, described: Constructor, stated: dict[str, Any]
) -> tuple[Constructor, dict[str, Any]]:
    """A class of the user's with what it is given, and what the config states for it: null leaves
    an argument to what it is given.
    """
    left = {name for name in contract.open if stated.get(name) is None}
    parameters = {n: p for n, p in described.parameters.items() if n not in left}
    given = contract.arguments.keys() - contract.open | (described.given or frozenset())
    kept = {key: value for key, value in stated.items() if key not in left}
    return replace(described, parameters=parameters, given=frozenset(given)), kept


def _check_arguments(
    where: str,
    target: str,
    described: Constructor,
    partial: bool,
    stated: Mapping[str, Any],
    extensions: Iterable[str],
    within: bool,
) -> tuple[Node, list[Problem]]:
    problems: list[Problem] = []
    node = Node(where, target, described, partial)
    parameters, allowed = described.parameters, described.settable(partial)
    given = set(parameters) - set(allowed)
    for key, value in stated.items():
        path = f"{where}.{key}"
        if key in given:
            user = where.split(".")[0]
            problems.append(
                Problem(path, f"nothing here: the {user} gives it", value, f"set {user}.{key}")
                if user != where
                else Problem(path, "nothing here: it is given when the run is built", value)
            )
        elif key in described.refused:
            problems.append(Problem(path, "nothing here", value, described.refused[key]))
        elif key not in parameters and not described.open_ended:
            expected = f"an argument of {described.name}"
            problems.append(Problem(path, expected, value, nearest(key, allowed)))
        else:
            # One value, one signature.
            value = described.aliases.get(key, {}).get(str(value), value)
            parameter = parameters.get(key, Parameter(key, EMPTY, Any))
            checked, found = _check_value(path, value, parameter.hint, extensions, within)
            problems += found
            default = parameter.default
            if not found and not _same(checked, default):
                node.arguments[key] = checked
    for name in allowed:
        if parameters[name].default is EMPTY and name not in stated:
            problems.append(Problem(f"{where}.{name}", "a value: it has no default"))
    return node, problems


def _check_value(
    path: str, value: Any, hint: Any, extensions: Iterable[str], within: bool
) -> tuple[Any, list[Problem]]:
    if value == "???":
        return None, [Problem(path, "a value: it must be given", hint=f"type {path}=...")]
    if isinstance(value, Mapping) and "_target_" in value:
        return check_node(path, value, extensions, within_extension=within)
    record = record_in(hint)
    if record is not None and isinstance(value, Mapping):
        return _check_arguments(path, "", record, False, value, extensions, within)
    if record is not None and not (value is None and is_union(hint)):
        keys = ", ".join(record.parameters)
        return None, [Problem(path, f"a mapping with the keys {keys}", value)]
    each = _value_type_in(hint)
    nested = isinstance(value, Mapping) and any(isinstance(v, Mapping) for v in value.values())
    if isinstance(value, Mapping) and (nested or record_in(each) is not None):
        checked: dict[str, Any] = {}
        problems: list[Problem] = []
        for key, inner in value.items():
            checked[key], found = _check_value(f"{path}.{key}", inner, each, extensions, within)
            problems += found
        return checked, problems
    too_long = isinstance(value, int) and not -(2**63) <= value < 2**63
    if too_long and path.startswith("model."):  # a size of a tensor
        return None, [Problem(path, "a number that fits into 64 bits", value)]
    if isinstance(value, bool) and not takes_bool(hint):  # else true would count as 1
        return None, [Problem(path, describe(hint), value)]
    try:
        return _adapter(hint).validate_python(value), []
    except ValidationError:
        hint_ = _choice_hint(hint, value) or _file_hint(path, value)
        return None, [Problem(path, describe(hint), value, hint_)]
    except TypeError:  # an annotation that pydantic cannot use: the constructor checks it
        return value, []


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotation's type as it stands."""
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
    except Exception as error:  # pydantic raises many kinds for annotations it cannot use
        raise TypeError(str(error)) from error


def _value_type_in(hint: Any) -> Any:
    """What the values of a mapping are, if they are of a dataclass; else anything."""
    options = typing.get_args(hint) if is_union(hint) else (hint,)
    kinds = (typing.get_args(o)[1] for o in options if typing.get_origin(o) is dict)
    return next((kind for kind in kinds if record_in(kind) is not None), Any)


def _choice_hint(hint: Any, value: Any) -> str | None:
    options = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return nearest(str(value), map(str, options)) if options else None


def _file_hint(path: str, value: Any) -> str | None:
    """What chooses a file of this name, if there is one."""
    group = path.replace(".", "/")
    there = isinstance(value, str) and (conf_dir() / group / f"{value}.yaml").is_file()
    return f"{group}={value} chooses that file" if there else None


def _built(value: Any) -> Any:
    if isinstance(value, Node):
        return value.build()
    if isinstance(value, dict):
        return {key: _built(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_built(inner) for inner in value]
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


def _same(value: Any, default: Any) -> bool:
    if default is EMPTY or isinstance(value, Node):
        return False
    if isinstance(value, bool) is not isinstance(default, bool):
        return False
    return bool(_canonical(value) == _canonical(default))
