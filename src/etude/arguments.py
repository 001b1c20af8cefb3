"""Checks of the arguments of public functions against their annotations."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

from etude.config.type_names import is_union
from etude.errors import InvalidArguments, Problem, RequestError, nearest

P = ParamSpec("P")
R = TypeVar("R")

_NAMES = {
    "int": ("an integer", "integers"),
    "float": ("a number", "numbers"),
    "str": ("a string", "strings"),
    "bool": ("True or False", "True or False"),
    "NoneType": ("None", "None"),
    "Path": ("a path", "paths"),
    "Callable": ("a function", "functions"),
    "Sequence": ("a list", "lists"),
    "DictConfig": ("the result of etude.compose(...)", "results of etude.compose(...)"),
    "Run": ("a run from etude.load_run(...)", "runs"),
    "SavedRun": ("a run from etude.load_run(...)", "runs"),
}
"""Noun phrases for types by name, in the singular and the plural."""


def check_arguments(
    error: type[InvalidArguments] | type[RequestError],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Returns a decorator that checks the types of a function's arguments at each call.

    A string is not a sequence, because a function would read it letter by letter. Annotations with
    names that are imported only for type checkers are not checked.

    Args:
        error: the exception to raise; its problems name the arguments.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        parameters = signature.parameters.values()
        several = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            hints = _hints(function)
            try:
                arguments = signature.bind(*args, **kwargs).arguments
            except TypeError as reason:
                name = function.__name__
                raise error(list(_binding_problems(name, signature, kwargs, reason))) from None
            problems = [
                Problem(name, _describe(hints[name]), value)
                for name, argument in arguments.items()
                for value in (argument if name == several else (argument,))
                if name in hints and not _fits(value, hints[name])
            ]
            if problems:
                raise error(problems)
            return function(*args, **kwargs)

        return checked

    return decorate


def _binding_problems(
    function: str, signature: inspect.Signature, given: Mapping[str, Any], reason: TypeError
) -> Iterable[Problem]:
    """Yields the problems of a call whose arguments do not fit the signature.

    Args:
        function: name of the function.
        signature: its signature.
        given: the keyword arguments of the call.
        reason: the error of `Signature.bind`.
    """
    known = [name for name in signature.parameters if name != "self"]
    unknown = [name for name in given if name not in known]
    for name in unknown:
        expected = f"no such argument of {function}"
        yield Problem(name, expected, given[name], nearest(name, known))
    if not unknown:
        yield Problem(f"arguments of {function}", "those in its signature", hint=str(reason))


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the annotations of a function's parameters that can be resolved, by name."""
    hints: dict[str, Any] = {}
    for name, annotation in function.__annotations__.items():
        alone = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(alone, vars(sys.modules[function.__module__]))
        except NameError:  # imported for type checkers only
            continue
    return hints


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether a value has an annotation's type; numbers may be those of NumPy or torch."""
    inner = typing.get_args(hint)
    kind = typing.get_origin(hint) or hint
    if is_union(hint):
        return any(_fits(value, option) for option in inner)
    if kind is typing.Literal:
        return isinstance(value, str | int) and value in inner
    if kind in (int, float):
        return not isinstance(value, bool) and (
            hasattr(value, "__index__") or (kind is float and hasattr(value, "__float__"))
        )
    if kind is Sequence:
        # Iterating over a mapping or a data frame would return its keys or columns.
        if isinstance(value, str | bytes | Mapping) or hasattr(value, "columns"):
            return False
        if not isinstance(value, Collection):  # a generator, which can be read only once
            return isinstance(value, Iterable)
        return all(_fits(item, inner[0]) for item in value)
    try:
        return kind is Any or isinstance(value, kind)
    except TypeError:  # a protocol
        return True


def _describe(hint: Any, number: int = 0) -> str:
    """Returns a noun phrase for an annotation, in the singular or, if `number` is 1, the plural."""
    inner = typing.get_args(hint)
    if is_union(hint):
        *others, last = [_describe(option, number) for option in inner]
        return f"{', '.join(others)} or {last}"
    if typing.get_origin(hint) is typing.Literal:
        return ("" if len(inner) == 1 else "one of ") + ", ".join(map(repr, inner))
    kind = (typing.get_origin(hint) or hint).__name__
    name = _NAMES.get(kind, (f"a {kind}", f"{kind} objects"))[number]
    return f"{name} of {_describe(inner[0], 1)}" if kind == "Sequence" else name


T = TypeVar("T")


def as_list(value: str | Iterable[T]) -> list[T]:
    """Returns the items of `value` as a list; a string is a single item."""
    return [value] if isinstance(value, str) else list(value)  # type: ignore[list-item]
