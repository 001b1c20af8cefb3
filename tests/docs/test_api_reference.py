"""The API reference describes every argument."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest

import etude
import etude.api
from etude.config.table import table

FILE = Path(__file__).parents[2] / "docs" / "arguments.py"
SPEC = importlib.util.spec_from_file_location("arguments", FILE)
assert SPEC is not None
assert SPEC.loader is not None
arguments = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(arguments)

ROOTS = ("data", "logger", "model", "optimizer", "schedule", "task", "trainer")


def _documented() -> dict[str, Any]:
    names = {
        table().location(name)
        for slot, names in table().slots.items()
        if slot.split(".")[0] in ROOTS
        for name in names
        if name.startswith("etude.")
    }
    classes = {}
    for name in names:
        module, _, attribute = name.rpartition(".")
        classes[name] = getattr(importlib.import_module(module), attribute)
    return classes | {name: getattr(etude.api, name) for name in etude.__all__ if name[0].islower()}


DOCUMENTED = _documented()


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_every_argument_is_described(name: str) -> None:
    described = arguments.descriptions(DOCUMENTED[name])
    assert [argument for argument, text in described.items() if not text] == []
    unresolved = [argument for argument, text in described.items() if text[0].startswith("see `")]
    assert unresolved == []


def test_the_classes_are_found() -> None:
    assert len(DOCUMENTED) > 100
    assert "etude.data.text_files.TextFiles" in DOCUMENTED
    assert "compose" in DOCUMENTED


class Base:
    """A base class.

    Args:
        size: number of things,
            in two lines.
        first, second,
            third: shared text.
    """

    def __init__(self, *, size: int, first: int, second: int, third: int = 1) -> None: ...


class Derived(Base):
    """A derived class.

    Args:
        depth: its own argument.
        first: see `Base`; here it is even.

    Raises:
        ValueError: never.
    """

    def __init__(self, *, depth: int, **others: Any) -> None:
        super().__init__(**others)

    __signature__ = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
            for name in ("size", "first", "second", "depth", "unknown")
        ]
    )


def test_inherited_arguments_and_references() -> None:
    assert arguments.descriptions(Derived) == {
        "size": ["number of things,", "in two lines."],
        "first": ["shared text.", "here it is even."],
        "second": ["shared text."],
        "depth": ["its own argument."],
        "unknown": [],
    }
    assert arguments.complete(Derived)[2:] == [
        "",
        "Args:",
        "    size: number of things,",
        "        in two lines.",
        "    first: shared text.",
        "        here it is even.",
        "    second: shared text.",
        "    depth: its own argument.",
        "    unknown: ",
        "",
        "Raises:",
        "    ValueError: never.",
    ]


class One:
    """A class.

    Args:
        size: see `Two`.
    """

    def __init__(self, size: int) -> None: ...


class Two:
    """A class.

    Args:
        size: see `One`.
    """

    def __init__(self, size: int) -> None: ...


def test_classes_that_refer_to_each_other() -> None:
    assert arguments.descriptions(One) == {"size": ["see `One`."]}


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(LookupError, match=r"test_api_reference\.Base: there is no Nothing"):
        arguments.find_object("Nothing", Base)
