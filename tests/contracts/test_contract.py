"""Comparison of classes with a contract."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

import pytest
import torch
from torch import nn

from etude.config.constructors import describe_class
from etude.config.nodes import Factory, check_node
from etude.config.table import table
from etude.contracts.contract import Contract
from etude.contracts.slots import CONTRACTS
from etude.errors import RequestError


class Thing(Protocol):
    size: int

    def __init__(self, *, width: int, depth: int = 1) -> None: ...

    def turn(self, x: Any, /, *, left: bool, far: bool = False) -> Any: ...


THING = Contract("thing", Thing)


def lacking(kind: Any, contract: Contract = THING) -> list[str]:
    return [problem.expected for problem in contract.problems(kind, "thing", "mine.Thing")]


class Whole:
    size = 1

    def __init__(self, *, width: int) -> None: ...

    def turn(self, x: Any, *, left: bool, far: bool = False) -> Any: ...


def test_a_class_that_has_everything() -> None:
    assert lacking(Whole) == []


class OfOtherForms:
    def __init__(self, width: int, **others: Any) -> None:
        self.size = width

    @staticmethod
    def turn(*args: Any, **options: Any) -> Any: ...


def test_catch_all_arguments_a_static_method_and_an_attribute_that_the_constructor_sets() -> None:
    assert lacking(OfOtherForms) == []


class Computed:
    def __init__(self, width: int) -> None: ...

    @property
    def size(self) -> int:
        return 1

    @property
    def turn(self) -> Any:
        return lambda x, *, left, far: x


def test_properties() -> None:
    assert lacking(Computed) == []


class Wrapper:
    def __init__(self, width: int) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_a_class_that_computes_its_attributes_is_asked_once_it_is_built() -> None:
    assert lacking(Wrapper) == []


def test_all_that_is_missing_at_once() -> None:
    class Nothing: ...

    assert lacking(Nothing) == [
        "a class whose constructor accepts width; Nothing does not accept 'width'",
        "a class with a method turn(x, *, left, far=False)",
        "a class with an attribute size",
    ]


def test_what_a_method_does_not_accept() -> None:
    class Narrow(Whole):
        def turn(self, *, left: bool) -> Any: ...

    class Wide(Whole):
        def turn(self, x: Any, y: Any, *, left: bool, far: bool, near: bool) -> Any: ...

    class NoMethod(Whole):
        turn = 3

    method = "a class with a method turn(x, *, left, far=False)"
    assert lacking(Narrow) == [
        f"{method}; turn does not accept 1 positional argument",
        f"{method}; turn does not accept 'far'",
    ]
    assert lacking(Wide) == [
        f"{method}; turn requires 'y', which Étude does not pass",
        f"{method}; turn requires 'near', which Étude does not pass",
    ]
    assert lacking(NoMethod) == [f"{method}; turn is not a method"]


def test_what_a_base_class_leaves_open() -> None:
    class Base(Whole, ABC):
        @abstractmethod
        def other(self) -> None: ...

        def turn(self, x: Any, *, left: bool, far: bool = False) -> Any:
            raise NotImplementedError

    class Mine(Base): ...

    assert lacking(Mine) == [
        "a class that implements the abstract method other",
        "a class with a method turn(x, *, left, far=False)",
    ]


def test_what_torch_stands_in_for_is_missing() -> None:
    class Norm(nn.Module):
        def __init__(self, dim: int, bias: bool) -> None:
            super().__init__()

    assert lacking(Norm, CONTRACTS["model.norm"]) == ["a class with a method forward(x)"]
    assert lacking(object, CONTRACTS["model.norm"])[-2:] == [
        "a subclass of torch.nn.modules.module.Module",
        "a class with a method forward(x)",
    ]


def test_an_annotation_promises_an_attribute_and_a_class_variable_must_be_there() -> None:
    class Promised:
        size: int

        def __init__(self, width: int) -> None: ...

        turn = Whole.turn

    class Declared(Promised):
        size: ClassVar[int]

    class Forgotten:
        size: ClassVar[int]

        def __init__(self, width: int) -> None: ...

        turn = Whole.turn

    assert lacking(Promised) == []
    assert lacking(Declared) == []  # its base class annotates it
    assert lacking(Forgotten) == ["a class with an attribute size"]


class ByName:
    def __init__(self, width: int) -> None:
        for name in ("size",):
            setattr(self, name, width)

    turn = Whole.turn


class ByOthers:
    def __init__(self, width: int) -> None:
        fill(self)

    turn = Whole.turn


def fill(thing: Any) -> None:
    thing.size = 1


class Decorated:
    size = 1

    def __init__(self, width: int) -> None: ...

    @staticmethod
    def _bare(function: Any) -> Any:
        def inner(*args: Any, **options: Any) -> Any:
            return function(*args, **options)

        return inner

    turn = _bare(Whole.turn)


class ByObjects:
    size = 1

    def __init__(self, width: int) -> None: ...

    turn = functools.partialmethod(Whole.turn, far=True)


@pytest.mark.parametrize("kind", [ByName, ByOthers, Decorated, ByObjects])
def test_what_cannot_be_read_off_a_class_is_left_to_the_object(kind: type) -> None:
    assert lacking(kind) == []


def test_one_mistake_is_one_line() -> None:
    class Plain(nn.Module):
        def __init__(self, *, dim: int, heads: int, bias: bool, dropout: float) -> None:
            super().__init__()

        def forward(self, x: Any) -> Any: ...

    (message,) = lacking(Plain, CONTRACTS["model.attention"])
    names = "'position', 'causal', 'bias', 'cache', 'positions', 'documents', 'memory'"
    assert message.startswith("a class with a method forward(x, *, position, ")
    assert message.endswith(f"; forward does not accept {names}")
    assert lacking(object, CONTRACTS["logger.*"]) == ["a subclass of etude.loggers.base.Logger"]


def test_what_only_seems_to_be_there() -> None:
    class Mixin:
        def forward(self, x: Any) -> Any: ...

    class After(nn.Module, Mixin):
        def __init__(self, dim: int, bias: bool) -> None:
            super().__init__()

    class Raises(nn.Module):
        def __init__(self, dim: int, bias: bool) -> None:
            super().__init__()

        def forward(self, x: Any) -> Any:
            raise NotImplementedError(f"{type(self).__name__} has none")

    class Method(Whole):
        def size(self) -> int: ...  # type: ignore[override]

    class OnTheObject:
        def __init__(self) -> None:
            self.__call__ = lambda module: None

    norm = CONTRACTS["model.norm"]
    assert lacking(After, norm) == lacking(Raises, norm) == ["a class with a method forward(x)"]
    assert lacking(Method) == ["a class with an attribute size, which is not a method"]
    assert lacking(OnTheObject, CONTRACTS["optimizer"]) == [
        "a class with a method __call__(module)"
    ]


@pytest.mark.parametrize(
    "factory",
    [
        functools.partial(nn.LayerNorm, eps=1e-3),
        lambda *, dim, bias: nn.LayerNorm(dim, bias=bias),
        lambda *, dim, bias: torch.jit.script(nn.LayerNorm(dim, bias=bias)),
    ],
)
def test_a_factory_of_any_form(factory: Any) -> None:
    assert describe_class(factory).parameters
    arguments = {"normalized_shape": 3} if isinstance(factory, functools.partial) else {"dim": 3}
    assert Factory("model.norm", factory, {})(**arguments, bias=True)(torch.ones(1, 3)).shape == (
        1,
        3,
    )


def test_buffers_and_submodules_by_name_are_attributes() -> None:
    class Registered(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.register_buffer("size", torch.ones(1))

        turn = Whole.turn

    assert lacking(Registered) == []


def test_what_is_built_is_compared_too() -> None:
    def make(*, dim: int, bias: bool) -> object:
        return object()

    assert lacking(make, CONTRACTS["model.norm"]) == []
    with pytest.raises(RequestError) as error:
        Factory("model.norm", make, {})(dim=3, bias=True)
    assert [str(problem) for problem in error.value.problems] == [
        "model.norm._target_ = 'object': expected a subclass of torch.nn.modules.module.Module "
        "(see docs/contracts/norm.md)",
        "model.norm._target_ = 'object': expected a class with a method forward(x) "
        "(see docs/contracts/norm.md)",
    ]


def test_arguments_of_an_unrelated_class_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The config's arguments are those of the class that it replaces."""
    module = types.ModuleType("mine")
    vars(module)["Other"] = type("Other", (), {"__module__": "mine"})
    monkeypatch.setitem(sys.modules, "mine", module)
    node, problems = check_node("data", {"_target_": "mine.Other", "batch": 3, "x": 1}, ["mine"])
    assert node is None
    assert [problem.expected for problem in problems] == [
        "a subclass of etude.data.module.DataModule"
    ]


def test_a_promise_that_nobody_keeps_is_reported_once_it_is_built() -> None:
    class Promised:
        causal: bool
        cacheable = everywhere = True

        def seen(self, T: int, S: int, device: Any = None) -> None: ...

    assert lacking(Promised, CONTRACTS["model.mask"]) == []
    with pytest.raises(RequestError, match="expected a class with an attribute causal"):
        Factory("model.mask", Promised, {})()


@pytest.mark.parametrize("slot", sorted(CONTRACTS.keys() & table().slots.keys()))
def test_every_shipped_class_fulfils_the_contract_of_its_slot(slot: str) -> None:
    for identifier in table().slots[slot]:
        module, _, name = table().location(identifier).rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        assert lacking(kind, CONTRACTS[slot]) == [], identifier
