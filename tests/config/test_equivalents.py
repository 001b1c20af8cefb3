"""Names of other tools are hints, and values in Chinese need no quotes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from etude.config.checks import check
from etude.config.compose import compose, quote_unicode
from etude.config.equivalents import (
    _OURS,
    _VALUES,
    equivalent_of,
    equivalent_value,
    plugin_of,
    suggest_sweep,
)
from etude.config.targets import find_constructor
from etude.errors import RequestError


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("trainer.batch_size", "use data.batch.examples"),
        ("--learning-rate=1", "use optimizer.lr"),
        ("n_embd", "use model.dim"),
        ("optimizer.lr", None),
        ("model.attention", "use model/attention=NAME"),
        ("nothing_like_it", None),
        ("run.name", "use name"),
        ("model.init_from", "use init_from"),
        ("name", None),
    ],
)
def test_hints(typed: str, hint: str | None) -> None:
    assert equivalent_of(typed) == hint


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("fp16", "use 16-mixed"),
        ("BFloat16", "use bf16-mixed"),
        ("float32", "use 32-true"),
        (8, None),
    ],
)
def test_hints_at_values(typed: object, hint: str | None) -> None:
    assert equivalent_value("trainer.precision", typed) == hint


def test_each_value_in_a_hint_is_accepted() -> None:
    for key, values in _VALUES.items():
        for value in values:
            check(compose(["experiment=debug", f"{key}={value}"]))


def test_a_hint_names_the_typed_file() -> None:
    assert equivalent_of("scheduler", "cosine") == "use schedule=cosine"


def test_keys_in_hints_exist() -> None:
    """Each key that a hint names is a key or a group of the config."""
    configs = [
        compose(["experiment=debug", "data=text_files"]),
        compose(["experiment=spam"]),  # of `task.monitor`
    ]

    def accepted(node: Any, where: str) -> set[str]:
        if "_target_" not in node:
            return set(node)
        constructor = find_constructor(node["_target_"], where)
        return set(node) | set(constructor.settable(bool(node.get("_partial_"))))

    for ours in set(_OURS.values()):
        for key in re.findall(r"\b[a-z_]+\.[a-z_.]*[a-z_]\b", ours):
            top, name, *_ = key.split(".")
            assert any(name in accepted(config[top], top) for config in configs), ours


def test_plugins_and_lists() -> None:
    assert plugin_of("hydra/launcher", "submitit_slurm") == (
        "to install it, run: pip install hydra-submitit-launcher"
    )
    assert plugin_of("hydra/launcher", "processes") is None
    assert suggest_sweep("seed", [0, 1]) == "to sweep over several values, use seed=0,1 -m"
    assert suggest_sweep("model.bias", [True, None]) == (
        "to sweep over several values, use model.bias=true,null -m"
    )
    for value in ("a", "[a]", [0.9], "a,b"):
        assert suggest_sweep("seed", value) is None


@pytest.mark.parametrize("text", ["第一次", "你好，世界"])
def test_texts_without_quotes(text: str) -> None:
    assert compose(["experiment=debug", f"run.notes={text}"]).run.notes == text


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("optimizer.lr＝0.1", "type optimizer.lr=0.1"),
        ("模型.层=3", "expected a key of the config"),
    ],
)
def test_full_width_characters_are_named(typed: str, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        compose(["experiment=debug", typed])


def test_lists_without_quotes() -> None:
    assert compose(["experiment=debug", "run.tags=[一,b,二]"]).run.tags == ["一", "b", "二"]


def test_what_hydra_reads_is_left_alone() -> None:
    for typed in (
        "run.notes=naïve (draft",
        "run.notes='第一次'",
        "run.tags=['一',二]",
        "seed=0,1",
        "model.dim=64",
    ):
        assert quote_unicode(typed) == typed
