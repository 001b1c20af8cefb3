"""Tests that references in a record's config cannot expand without limit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from etude.config.compose import compose, plain_yaml
from etude.errors import RequestError
from etude.records.config_file import read_config, to_portable
from etude.records.references import check_expanded_size

TEXTS = {f"a{i}": f"${{a{i + 1}}}${{a{i + 1}}}" for i in range(40)} | {"a40": "x"}
NODES: dict[str, Any] = {
    f"a{i}": {"x": f"${{a{i + 1}}}", "y": f"${{a{i + 1}}}"} for i in range(40)
} | {"a40": "x"}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (TEXTS, "interpolations that expand to at most"),
        (NODES, "interpolations that expand to at most"),
        ({"a": ["${b}"] * 2000, "b": 1}, "interpolations that expand to at most"),
        ({"a": "${b}", "b": "${a}"}, "an interpolation that does not refer back to itself"),
        ({"a": {"b": "${a}"}}, "an interpolation that does not refer back to itself"),
        ({"a": {"b": "${..a}"}}, "an interpolation that does not refer back to itself"),
        ({"a": "${oc.create:'b'}"}, "a resolver that is allowed in saved runs"),
        ({"a": "${oc.create:'{b: 1}'}"}, "contain no other braces"),
        ({"a": "${b"}, r"interpolations \$\{\.\.\.\} that end with }"),
        ({"a": "${oc.decode:'${b}'}", "b": 1}, "a resolver that is allowed in saved runs"),
        ({"a": "${" * 4000}, "characters in a value with interpolations"),
        ({f"a{i}": f"${{a{i + 1}}}" for i in range(3000)}, "interpolations that expand to"),
    ],
)
def test_what_grows_or_turns_in_circles_is_refused_at_once(tree: Any, said: str) -> None:
    began = time.process_time()
    with pytest.raises(RequestError, match=said):
        check_expanded_size(tree, "config.yaml")
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "tree",
    [
        {"a": "${b.c}", "b": {"c": 3}},
        {"a": {"x": "${.y}", "y": "${..b}"}, "b": "text"},
        {"which": "one", "one": 1, "a": "${${which}}"},
        {"a": "${l[1]}", "l": [1, 2]},
        {"a": "${oc.env:HOME}/${oc.env:USER,nobody}", "b": "${oc.decode:${oc.env:N,3}}"},
        {"a": "${oc.select:b.c,4}", "b": "${oc.dict.keys:d}", "d": {"e": 1}},
        {"a": "${missing}", "b": "$ {no}", "c": "\\${no}"},
    ],
)
def test_what_omegaconf_follows_is_accepted(tree: Any) -> None:
    check_expanded_size(tree, "config.yaml")


def test_a_config_that_grows_is_not_followed(tmp_path: Path) -> None:
    config = OmegaConf.create(plain_yaml(compose(["experiment=debug"])))
    config.vars = {key: value.replace("${", "${vars.") for key, value in TEXTS.items()}
    config.run.notes = "${vars.a0}"
    OmegaConf.save(config, tmp_path / "config.yaml")
    with pytest.raises(RequestError, match=str(tmp_path / "config.yaml")):
        read_config(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vars:\n  a: " + "[" * 100 + "]" * 100, "nested lists and mappings"),
        ("vars: " + "[" * 100_000, "nested lists and mappings"),
        ("vars: [" + "1," * 30_000 + "]", "keys and values"),
        ("vars: " + "x" * 300_000, "at most 262,144 bytes"),
    ],
)
def test_yaml_that_takes_long_is_refused_at_once(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(RequestError, match=said):
        read_config(tmp_path / "config.yaml")
    assert time.process_time() - began < 2


def test_where_runs_and_prepared_data_lie_is_the_readers_own(tmp_path: Path) -> None:
    overrides = ["experiment=debug", "run.cache=/theirs/cache", "run.root=/theirs"]
    (tmp_path / "config.yaml").write_text(plain_yaml(compose(overrides)))
    found = to_portable(read_config(tmp_path / "config.yaml"))
    assert (found.run.cache, found.run.root) == (None, "experiments")
