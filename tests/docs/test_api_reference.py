"""The API reference describes every argument."""

from __future__ import annotations

import importlib
import inspect
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

import etude
import etude.api
from etude.config.table import table

sys.path.append(str(Path(__file__).parents[2] / "docs"))
api_pages = importlib.import_module("api_pages")
arguments = importlib.import_module("arguments")

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


@dataclass
class Result:
    """A result.

    Attributes:
        first, second: numbers.
        size: see `One`.

    Example:
        Result(1, 2, 3)
    """

    first: int
    second: int
    size: int

    def total(self, more: int) -> int:
        """Returns a sum.

        Args:
            more: a number.

        Returns:
            A sum of four: those of the result, and one more.
        """
        return self.first + self.second + self.size + more


def test_attributes_are_listed_once_and_each_on_its_own() -> None:
    assert [line for line in arguments.complete(Result) if line] == [
        "A result.",
        "Attributes:",
        "    first: numbers.",
        "    second: numbers.",
        "    size: see `One`.",
        "Example::",
        "    Result(1, 2, 3)",
    ]


def test_self_is_no_argument_and_a_colon_in_the_result_is_no_type() -> None:
    assert [line for line in arguments.complete(Result.total) if line] == [
        "Returns a sum.",
        "Args:",
        "    more: a number.",
        ":returns:",
        "    A sum of four: those of the result, and one more.",
    ]


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("model/attention/grouped_query", "kv_heads: 2"),
        ("model/attention/qk_norm_8", "qk_norm: true, kv_heads: 8"),
        ("model/attention/multi_head", ""),
        ("model/head/classification", "labels: null"),
        ("model/gpt2_large", "layers: 36, heads: 20, dim: 1280"),
        ("model/roberta_base", ""),
        ("model/nano", ""),
        ("data/sotu", ""),
        ("logger/wandb", ""),
    ],
)
def test_small_files_show_their_values(file: str, values: str) -> None:
    conf = Path(__file__).parents[2] / "conf"
    assert api_pages.values_in(conf / f"{file}.yaml") == values


@pytest.mark.parametrize("keys", list(api_pages.KEYS.values()))
def test_every_key_of_the_schema_is_described(keys: type) -> None:
    texts = arguments.descriptions(keys)
    assert [field.name for field in fields(keys) if not texts.get(field.name)] == []


def test_pages_of_keys_and_commands() -> None:
    keys = "\n".join(api_pages.describe_keys())
    assert "| `run.keep_last` | `null` |" in keys
    assert "| `init_from.lora.rank` | `0` |" in keys
    commands = "\n".join(api_pages.describe_commands())
    for command in ("train", "data find", "runs export", "reproduce"):
        assert f"## `etude {command}`" in commands
    assert "--length-penalty" in commands
