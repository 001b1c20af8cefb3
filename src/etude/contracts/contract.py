"""A contract, and how a class is compared with it before anything is built."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from types import FunctionType
from typing import Any

from etude.errors import Problem

_NOTHING = object()
_KNOWN = ("etude", "torch", "pytorch_lightning")
_STAND_INS = ("torch.nn.modules.module", "pytorch_lightning.core.", "hydra.plugins.")
"""Modules whose classes have the methods that subclasses are to define."""
_MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Contract:
    """What an object in a slot of the config must have, and what its constructor is given.

    Attributes:
        name: of its page in the documentation.
        protocol: a `typing.Protocol`. The parameters of its `__init__` are what a constructor is
            given; one with a default is given only to constructors that name it.
        base: the dotted name of a class that it must inherit from; None is any class.
        open: arguments among the given that a config may state instead.
    """

    name: str
    protocol: type
    base: str | None = None
    open: frozenset[str] = frozenset()

    @property
    def page(self) -> str:
        """The page of the documentation that explains it."""
        return f"docs/contracts/{self.name}.md"

    @cached_property
    def arguments(self) -> Mapping[str, inspect.Parameter]:
        """What the constructor is given."""
        own = vars(self.protocol).get("__init__")
        if not isinstance(own, FunctionType) or own.__qualname__.startswith("_no_init"):
            return {}
        return dict(list(inspect.signature(own).parameters.items())[1:])

    @cached_property
    def methods(self) -> Mapping[str, FunctionType]:
        """What it must have to be called."""
        found = {
            name: value for name, value in vars(self.protocol).items() if inspect.isfunction(value)
        }
        return {n: f for n, f in found.items() if not n.startswith("_") or n == "__call__"}

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """What it must have to be read."""
        read = (n for n, value in vars(self.protocol).items() if isinstance(value, property))
        return (*inspect.get_annotations(self.protocol), *read)

    def problems(self, constructor: Any, where: str, target: str) -> Iterator[Problem]:
        """What a class lacks.

        Args:
            constructor: the class, or a function that makes objects.
            where: its key path.
            target: its name as written.
        """
        for lacking in self._lacking(constructor):
            yield Problem(f"{where}._target_", lacking, target, f"see {self.page}")

    def problems_of(self, made: Any, where: str) -> Iterator[Problem]:
        """What an object lacks that has been built, whatever its class says."""
        kind = type(made)
        for lacking in self._members(kind, lambda name: _has_own(made, name)):
            yield Problem(f"{where}._target_", lacking, kind.__qualname__, f"see {self.page}")

    def _lacking(self, constructor: Any) -> Iterator[str]:
        yield from self._constructor(constructor)
        if isinstance(constructor, type):
            unknown = _hides_what_it_sets(constructor)
            yield from self._members(
                constructor, lambda name: unknown or name in _set_in(constructor)
            )

    def _constructor(self, constructor: Any) -> Iterator[str]:
        try:
            parameters = inspect.signature(constructor).parameters
        except ValueError:  # classes of the interpreter's own have none
            return
        needed = [n for n, p in self.arguments.items() if p.default is inspect.Parameter.empty]
        for name in needed:
            if not _takes(parameters, name):
                told = f"{', '.join(needed)} {'is' if len(needed) == 1 else 'are'} given"
                yield f"a class whose constructor accepts {name} ({told})"

    def _members(self, kind: type, own: Callable[[str], bool]) -> Iterator[str]:
        """What objects of a class lack.

        Args:
            own: whether they have something that the class itself has not.
        """
        if self.base is not None and self.base not in map(_dotted, kind.__mro__):
            yield f"a subclass of {self.base}"
            if not self.base.startswith("torch."):
                return  # it has the rest
        abstract: frozenset[str] = getattr(kind, "__abstractmethods__", frozenset())
        for name in sorted(abstract - self.methods.keys()):
            yield f"a class that defines {name}: its base class leaves that to it"
        for name, method in self.methods.items():
            defined = _defined(kind, name)
            special = name.startswith("__")  # Python looks for these in the class alone
            if _is_open(kind, name) or not (defined or (own(name) and not special)):
                yield f"a class with a method {name}{_shown(method)}"
            elif defined:
                yield from _misfits(kind, name, method)
        for name in self.attributes:
            static = inspect.getattr_static(kind, name, _NOTHING)
            if static is _NOTHING and not own(name):
                yield f"a class with an attribute {name}"
            elif isinstance(static, FunctionType):
                yield f"a class whose {name} is an attribute, not a method"


def _misfits(kind: type, name: str, method: FunctionType) -> Iterator[str]:
    """How a class's method differs from what is called."""
    static: Any = inspect.getattr_static(kind, name)
    shown = f"{name}{_shown(method)}"
    if not callable(static) and not hasattr(type(static), "__get__"):
        yield f"a class whose {name} is a method {shown}"
    if not isinstance(static, FunctionType | staticmethod | classmethod):
        return  # what such an object takes shows when it is called
    function = static if isinstance(static, FunctionType) else static.__func__
    has = list(inspect.signature(function).parameters.values())
    bound = not isinstance(static, staticmethod) and has[:1] and has[0].kind not in _MANY
    own = has[1:] if bound else has
    asked = list(inspect.signature(method).parameters.values())[1:]
    for lacking in (*_not_accepted(own, asked), *_not_given(own, asked)):
        yield f"a class whose {name} {lacking}: {shown}"


def _not_accepted(
    has: Sequence[inspect.Parameter], asked: Sequence[inspect.Parameter]
) -> Iterator[str]:
    """What a method is called with and does not take."""
    places = sum(p.kind is p.POSITIONAL_ONLY for p in asked)
    takes = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in has)
    if places > takes and not any(p.kind is p.VAR_POSITIONAL for p in has):
        yield f"accepts {places} positional arguments"
    parameters = {p.name: p for p in has}
    named = (one.name for one in asked if one.kind is one.KEYWORD_ONLY)
    if lacking := [name for name in named if not _takes(parameters, name)]:
        yield f"accepts {', '.join(lacking)}"


def _not_given(
    has: Sequence[inspect.Parameter], asked: Sequence[inspect.Parameter]
) -> Iterator[str]:
    """What a method needs and is not called with."""
    named = {p.name for p in asked if p.kind is p.KEYWORD_ONLY}
    any_number = any(p.kind is p.VAR_POSITIONAL for p in asked)
    places = len(has) if any_number else sum(p.kind is p.POSITIONAL_ONLY for p in asked)
    for number, one in enumerate(has):
        given = one.name in named or (number < places and one.kind is not one.KEYWORD_ONLY)
        if not given and one.default is one.empty and one.kind not in _MANY:
            yield f"works without {one.name}"


def _takes(parameters: Mapping[str, inspect.Parameter], name: str) -> bool:
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return True
    found = parameters.get(name)
    return found is not None and found.kind in (found.KEYWORD_ONLY, found.POSITIONAL_OR_KEYWORD)


def _shown(method: FunctionType) -> str:
    """A method's parameters, without their types."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return str(inspect.Signature(plain)).replace(", /", "")


def _defined(kind: type, name: str) -> bool:
    """Whether a class has a member, of its own or of a base class that does not stand in for it."""
    owner = next((one for one in kind.__mro__ if name in vars(one)), None)
    return owner is not None and not _stands_in(owner)


def _stands_in(kind: type) -> bool:
    return kind.__module__.startswith(_STAND_INS)


def _is_open(kind: type, name: str) -> bool:
    """Whether a class's bases leave a method to it: an abstract one, or one that does nothing but
    raise `NotImplementedError`.
    """
    if name in getattr(kind, "__abstractmethods__", ()):
        return True
    code = getattr(inspect.getattr_static(kind, name, None), "__code__", None)
    if code is None or "NotImplementedError" not in code.co_names:
        return False
    steps = [step.opname for step in dis.get_instructions(code)]
    return steps[-1] == "RAISE_VARARGS" and not any("JUMP" in step for step in steps)


@cache
def _hides_what_it_sets(kind: type) -> bool:
    """Whether a class computes attributes that nobody set, or sets them where that cannot be read
    off its methods: by their names, in nested functions, or in others that it hands itself to.
    """
    for one in kind.__mro__:
        if one is object or one.__module__.split(".")[0] in _KNOWN:
            continue
        members = vars(one)
        if "__getattr__" in members or "__getattribute__" in members:
            return True
        functions = (getattr(value, "__func__", value) for value in members.values())
        if any(_is_opaque(each) for each in functions if isinstance(each, FunctionType)):
            return True
    return False


def _is_opaque(function: FunctionType) -> bool:
    code = function.__code__
    if {"setattr", "__setattr__", "__dict__", "vars"} & set(code.co_names) or code.co_cellvars:
        return True
    first = code.co_varnames[:1]
    steps = [step for step in dis.get_instructions(function) if step.opname != "CACHE"]
    return any(
        step.opname == "LOAD_FAST"
        and (step.argval,) == first
        and not after.opname.endswith(("_ATTR", "_METHOD"))
        for step, after in pairwise(steps)
    )


def _has_own(made: Any, name: str) -> bool:
    """Whether an object has something that its class has not."""
    if name in getattr(made, "__dict__", ()):
        return True
    in_class = inspect.getattr_static(type(made), name, _NOTHING) is not _NOTHING
    return not in_class and hasattr(made, name)


def _dotted(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@cache
def _set_in(kind: type) -> frozenset[str]:
    """The names that a class annotates, and those that its methods set."""
    found: set[str] = set()
    for one in kind.__mro__:
        if _stands_in(one):
            continue
        annotated = inspect.get_annotations(one).items()
        found |= {name for name, hint in annotated if "ClassVar" not in str(hint)}
        for value in vars(one).values():
            function = getattr(value, "__func__", value)
            if isinstance(function, FunctionType):
                found |= _set_by(function)
    return frozenset(found)


def _set_by(function: FunctionType) -> set[str]:
    """The attributes that a function sets, on whatever object; and buffers and modules by name."""
    found: set[str] = set()
    registers = set(function.__code__.co_names) & _REGISTER
    for step in dis.get_instructions(function):
        named = registers and step.opname == "LOAD_CONST" and isinstance(step.argval, str)
        if named or step.opname == "STORE_ATTR":
            found.add(step.argval)
    return found


_REGISTER = {"register_buffer", "register_parameter", "register_module", "add_module"}
