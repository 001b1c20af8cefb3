"""Contracts: requirements on the classes in a config, and checks whether a class meets them."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from types import FunctionType
from typing import Any

from etude.counts import counted
from etude.errors import Problem

_MISSING = object()
_TRUSTED_PACKAGES = ("etude", "torch", "pytorch_lightning")
_STUB_MODULES = ("torch.nn.modules.module", "pytorch_lightning.core.", "hydra.plugins.")
"""Modules whose classes have stubs of the methods that subclasses must define."""
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Contract:
    """Requirements on the class that the user sets for a config key, such as `model.attention`.

    The requirements concern the base class, methods, attributes and constructor arguments.

    Attributes:
        name: name of the contract's page in the documentation.
        protocol: a `typing.Protocol`. The parameters of its `__init__` are the arguments that
            Étude passes to the constructor. An argument with a default is passed only if the
            constructor has a parameter with this name.
        base: dotted name of the required base class; None accepts any class.
        open: names of constructor arguments that the config may also set. A value in the config
            replaces the value that Étude would pass.
    """

    name: str
    protocol: type
    base: str | None = None
    open: frozenset[str] = frozenset()

    @property
    def page(self) -> str:
        """Path of the page of the documentation that explains the contract."""
        return f"docs/contracts/{self.name}.md"

    @cached_property
    def arguments(self) -> Mapping[str, inspect.Parameter]:
        """The parameters for which Étude passes arguments to the constructor, by name."""
        own = vars(self.protocol).get("__init__")
        if not isinstance(own, FunctionType) or own.__qualname__.startswith("_no_init"):
            return {}
        return dict(list(inspect.signature(own).parameters.items())[1:])

    @cached_property
    def methods(self) -> Mapping[str, FunctionType]:
        """The methods that the class must define, by name."""
        functions = {
            name: value for name, value in vars(self.protocol).items() if inspect.isfunction(value)
        }
        return {n: f for n, f in functions.items() if not n.startswith("_") or n == "__call__"}

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """The names of the attributes that the object must have."""
        properties = (n for n, value in vars(self.protocol).items() if isinstance(value, property))
        return (*inspect.get_annotations(self.protocol), *properties)

    def problems(self, constructor: Any, where: str, target: str) -> Iterator[Problem]:
        """Yields a problem for each requirement that a class does not meet.

        Args:
            constructor: the class, or a function that returns objects. For a function, only its
                parameters are checked, not the members of the objects.
            where: key path of the class, such as `model.attention`.
            target: name of the class, as written in the config.
        """
        for expected in self._unmet(constructor):
            yield Problem(f"{where}._target_", expected, target, f"see {self.page}")

    def is_unrelated(self, constructor: Any) -> bool:
        """Returns whether a class lacks the required base class of Étude.

        The class then lacks the members and arguments of this base class, too, so that no further
        problem needs to be reported. The result is false if no base class is required, if it is a
        class of torch (which has few of the required members), or if `constructor` is a function.
        """
        return (
            self.base is not None
            and not self.base.startswith("torch.")
            and isinstance(constructor, type)
            and self.base not in map(_dotted_name, constructor.__mro__)
        )

    def problems_of(self, instance: Any, where: str) -> Iterator[Problem]:
        """Yields a problem for each requirement that a built object does not meet.

        Args:
            instance: the object.
            where: key path of its class, such as `model.attention`.
        """
        kind = type(instance)
        for expected in self._member_problems(
            kind, lambda name: _has_instance_attribute(instance, name)
        ):
            yield Problem(f"{where}._target_", expected, kind.__qualname__, f"see {self.page}")

    def _unmet(self, constructor: Any) -> Iterator[str]:
        yield from self._constructor_problems(constructor)
        if isinstance(constructor, type):
            unknown = _sets_attributes_dynamically(constructor)
            yield from self._member_problems(
                constructor, lambda name: unknown or name in _assigned_attributes(constructor)
            )

    def _constructor_problems(self, constructor: Any) -> Iterator[str]:
        try:
            parameters = inspect.signature(constructor).parameters
        except ValueError:  # built-in classes have no signature
            return
        required = [n for n, p in self.arguments.items() if p.default is inspect.Parameter.empty]
        kind = getattr(constructor, "__name__", type(constructor).__name__)
        for name in required:
            if not _accepts(parameters, name):
                accepted = f"a class whose constructor accepts {', '.join(required)}"
                yield f"{accepted}; {kind} does not accept {name!r}"

    def _member_problems(self, kind: type, own: Callable[[str], bool]) -> Iterator[str]:
        """Yields a description of each required method or attribute that objects of a class lack.

        Args:
            kind: the class.
            own: function from an attribute's name to a boolean: whether objects have this
                attribute although the class does not define it, such as one that `__init__` sets.
        """
        if self.base is not None and self.base not in map(_dotted_name, kind.__mro__):
            yield f"a subclass of {self.base}"
            if self.is_unrelated(kind):
                return
        abstract: frozenset[str] = getattr(kind, "__abstractmethods__", frozenset())
        for name in sorted(abstract - self.methods.keys()):
            yield f"a class that implements the abstract method {name}"
        for name, method in self.methods.items():
            defined = _defines(kind, name)
            special = name.startswith("__")  # Python looks these up in the class only
            if _is_abstract(kind, name) or not (defined or (own(name) and not special)):
                yield f"a class with a method {name}{_format_parameters(method)}"
            elif defined:
                yield from _method_problems(kind, name, method)
        for name in self.attributes:
            static = inspect.getattr_static(kind, name, _MISSING)
            if static is _MISSING and not own(name):
                yield f"a class with an attribute {name}"
            elif isinstance(static, FunctionType):
                yield f"a class with an attribute {name}, which is not a method"


def _method_problems(kind: type, name: str, method: FunctionType) -> Iterator[str]:
    """Yields a description of each reason why Étude can't call the method `name` of a class.

    Args:
        kind: the class, which has a member `name`.
        name: name of the method.
        method: the method `name` of a `Contract.protocol`. Its parameters represent the arguments
            that Étude passes.
    """
    static: Any = inspect.getattr_static(kind, name)
    expected = f"a class with a method {name}{_format_parameters(method)}"
    if not callable(static) and not hasattr(type(static), "__get__"):
        yield f"{expected}; {name} is not a method"
    if not isinstance(static, FunctionType | staticmethod | classmethod):
        return  # the signature of another kind of descriptor is unknown
    function = static if isinstance(static, FunctionType) else static.__func__
    parameters = list(inspect.signature(function).parameters.values())
    is_bound = (
        not isinstance(static, staticmethod)
        and parameters[:1]
        and parameters[0].kind not in _VARIADIC
    )
    own = parameters[1:] if is_bound else parameters
    passed = list(inspect.signature(method).parameters.values())[1:]
    for difference in (*_not_accepted(own, passed), *_not_passed(own, passed)):
        yield f"{expected}; {name} {difference}"


def _not_accepted(
    own: Sequence[inspect.Parameter], passed: Sequence[inspect.Parameter]
) -> Iterator[str]:
    """Yields descriptions of the arguments that Étude passes but that a method does not accept.

    Args:
        own: parameters of the method.
        passed: parameters that represent the passed arguments.
    """
    count = sum(p.kind is p.POSITIONAL_ONLY for p in passed)
    most = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in own)
    if count > most and not any(p.kind is p.VAR_POSITIONAL for p in own):
        yield f"does not accept {counted(count, 'positional argument')}"
    parameters = {p.name: p for p in own}
    keywords = (p.name for p in passed if p.kind is p.KEYWORD_ONLY)
    if rejected := [name for name in keywords if not _accepts(parameters, name)]:
        yield f"does not accept {', '.join(map(repr, rejected))}"


def _not_passed(
    own: Sequence[inspect.Parameter], passed: Sequence[inspect.Parameter]
) -> Iterator[str]:
    """Yields descriptions of the arguments that a method requires but that Étude does not pass.

    Args:
        own, passed: see `_not_accepted`.
    """
    keywords = {p.name for p in passed if p.kind is p.KEYWORD_ONLY}
    any_number = any(p.kind is p.VAR_POSITIONAL for p in passed)
    count = len(own) if any_number else sum(p.kind is p.POSITIONAL_ONLY for p in passed)
    for number, p in enumerate(own):
        is_passed = p.name in keywords or (number < count and p.kind is not p.KEYWORD_ONLY)
        if not is_passed and p.default is p.empty and p.kind not in _VARIADIC:
            yield f"requires {p.name!r}, which Étude does not pass"


def _accepts(parameters: Mapping[str, inspect.Parameter], name: str) -> bool:
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return True
    parameter = parameters.get(name)
    if parameter is None:
        return False
    return parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)


def _format_parameters(method: FunctionType) -> str:
    """Returns a method's parameters in parentheses, without their types."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    untyped = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return str(inspect.Signature(untyped)).replace(", /", "")


def _defines(kind: type, name: str) -> bool:
    """Returns whether a class has a definition of the member `name`, its own or an inherited one.

    Only the first definition in the method resolution order counts. A definition in a module of
    `_STUB_MODULES` (base classes of torch, Lightning and Hydra) does not count, because it is only
    a stub.
    """
    owner = next((base for base in kind.__mro__ if name in vars(base)), None)
    return owner is not None and not _is_stub(owner)


def _is_stub(kind: type) -> bool:
    return kind.__module__.startswith(_STUB_MODULES)


def _is_abstract(kind: type, name: str) -> bool:
    """Returns whether subclasses of the class `kind` must define the method `name`.

    They must if the method is abstract or only raises `NotImplementedError`.
    """
    if name in getattr(kind, "__abstractmethods__", ()):
        return True
    code = getattr(inspect.getattr_static(kind, name, None), "__code__", None)
    if code is None or "NotImplementedError" not in code.co_names:
        return False
    steps = [step.opname for step in dis.get_instructions(code)]
    return steps[-1] == "RAISE_VARARGS" and not any("JUMP" in step for step in steps)


@cache
def _sets_attributes_dynamically(kind: type) -> bool:
    """Returns whether objects of a class may have attributes that its code does not assign by name.

    They may if the class has `__getattr__`, if it sets attributes with `setattr` or the like, if it
    has nested functions, or if it passes `self` to functions.
    """
    for base in kind.__mro__:
        if base is object or base.__module__.split(".")[0] in _TRUSTED_PACKAGES:
            continue
        members = vars(base)
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


def _has_instance_attribute(instance: Any, name: str) -> bool:
    """Returns whether an object has the attribute `name` itself, not only through its class.

    The registered parameters, buffers and modules of a `torch.nn.Module` count, too.
    """
    if name in getattr(instance, "__dict__", ()):
        return True
    in_class = inspect.getattr_static(type(instance), name, _MISSING) is not _MISSING
    return not in_class and hasattr(instance, name)


def _dotted_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@cache
def _assigned_attributes(kind: type) -> frozenset[str]:
    """Returns the names of the attributes that a class annotates or that its methods set.

    Base classes are included.
    """
    names: set[str] = set()
    for base in kind.__mro__:
        if _is_stub(base):
            continue
        annotated = inspect.get_annotations(base).items()
        names |= {name for name, hint in annotated if "ClassVar" not in str(hint)}
        for value in vars(base).values():
            function = getattr(value, "__func__", value)
            if isinstance(function, FunctionType):
                names |= _attributes_assigned_by(function)
    return frozenset(names)


def _attributes_assigned_by(function: FunctionType) -> set[str]:
    """Returns the names of the attributes that a function sets, on `self` or on any object.

    The names of registered buffers, parameters and modules are included.
    """
    names: set[str] = set()
    registers = set(function.__code__.co_names) & _REGISTER_METHODS
    for step in dis.get_instructions(function):
        named = registers and step.opname == "LOAD_CONST" and isinstance(step.argval, str)
        if named or step.opname == "STORE_ATTR":
            names.add(step.argval)
    return names


_REGISTER_METHODS = {"register_buffer", "register_parameter", "register_module", "add_module"}
