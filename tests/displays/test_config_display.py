"""Composed configs: which values are marked, and that they are otherwise a `DictConfig`."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from html_reader import HOSTILE, Parsed, check_hostile
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

import etude
from etude.config.compose import compose as compose_dict
from etude.config.composed import ComposedConfig, config_html

OVERRIDES = ("experiment=debug", "optimizer.lr=2e-3", "model/position=rotary")


def marks(html: str) -> list[str]:
    """The marked values, without the counts at the nodes above them."""
    return [
        line.removeprefix(" ")
        for line in Parsed(html).texts("div", "etude-leaf")
        if "(default" in line or "(new)" in line or "(removed)" in line
    ]


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """The values of a config by their key paths; references have the value they refer to."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for key, each in tree.items() for k, v in leaves(each, f"{path}.{key}").items()}


def test_changed_values_are_marked_with_their_defaults() -> None:
    config = etude.compose(*OVERRIDES, "data.sequence_length=16")
    config.model.dropout = 0.25
    with open_dict(config):
        del config.optimizer["weight_decay"]
    html = config._repr_html_()
    assert marks(html) == [
        "_target_: etude.nn.position.Rotary (default etude.nn.position.Learned)",
        "base: 10000.0 (new)",
        "max_length: ${data.sequence_length} = 16 (default 32)",
        "dropout: 0.25 (default 0.0)",
        "sequence_length: 16 (default 32)",
        "lr: 0.002 (default 0.01)",
        "weight_decay: 0.1 (removed)",
    ]
    assert "7 values differ from experiment=debug" in Parsed(html).text
    opened = [
        e["text"].split()[0]
        for e in Parsed(html).elements
        if e["tag"] == "details" and "open" in e["attributes"]
    ]
    assert opened == ["model", "position", "data", "optimizer"]
    ours, theirs = (
        leaves(OmegaConf.to_container(each, resolve=True))
        for each in (config, compose_dict(["experiment=debug"]))
    )
    different = {key for key in ours | theirs if ours.get(key, "none") != theirs.get(key, "none")}
    different = {key for key in different if not key.startswith((".run.overrides", ".run.choices"))}
    assert sorted(key.split(".")[-1] for key in different) == sorted(
        line.split(":")[0] for line in marks(html)
    )


@pytest.mark.slow
def test_nothing_is_marked_without_changes() -> None:
    html = etude.compose("experiment=debug")._repr_html_()  # type: ignore[operator]
    assert marks(html) == []
    assert "all values are those of experiment=debug" in Parsed(html).text


@pytest.mark.slow
def test_the_users_own_experiment_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - debug\n  - _self_\noptimizer: {lr: 0.5}\n"
    (tmp_path / "experiment/mine.yaml").write_text(text)
    config = etude.compose("experiment=mine", "seed=3", config_dir=tmp_path)
    assert marks(config._repr_html_()) == ["seed: 3 (default 0)"]
    html = config_html(config)  # without the folder, as in a record of another machine
    assert marks(html) == []
    assert "the defaults are not known" in Parsed(html).text


def test_hostile_values_are_text() -> None:
    config = etude.compose("experiment=debug")
    config.run.notes = HOSTILE
    config.vars = {HOSTILE: HOSTILE}
    config.model["_target_"] = f"a.{HOSTILE}"
    before, text = GlobalHydra.instance().hydra, OmegaConf.to_yaml(config)
    check_hostile(config._repr_html_())
    assert GlobalHydra.instance().hydra is before  # a display changes no state
    assert OmegaConf.to_yaml(config) == text


@pytest.mark.slow
def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "s3cret-value-of-the-environment")
    config = etude.compose(
        "experiment=debug", "vars.api_key=abcdefgh1234567", "vars.x=${oc.env:MY_API_KEY}"
    )
    html = config._repr_html_()
    assert "abcdefgh1234567" not in html
    assert "s3cret" not in html


def test_it_is_a_dict_config_in_all_other_respects() -> None:
    config, other = etude.compose(*OVERRIDES), compose_dict(OVERRIDES)
    assert isinstance(config, DictConfig)
    assert config == other
    assert type(other) is DictConfig
    assert OmegaConf.to_yaml(config) == OmegaConf.to_yaml(other)
    assert OmegaConf.to_container(config) == OmegaConf.to_container(other)
    assert OmegaConf.is_dict(config)
    assert repr(config) == repr(other)
    assert config.model._get_parent() is config
    for copied in (
        copy.deepcopy(config),
        copy.copy(config),
        config.copy(),
        pickle.loads(pickle.dumps(config)),
    ):
        assert type(copied) is ComposedConfig
        assert copied == other
        copied.model.dim = 64
        assert config.model.dim == 32
    assert "dim: 64 (default 32)" in marks(copied._repr_html_())
    merged = OmegaConf.merge(config, {"seed": 9})
    assert isinstance(merged, DictConfig)
    assert merged.seed == 9
    assert config.seed == 0
    with pytest.raises(Exception, match="unknown_key"):
        config.unknown_key = 1  # the schema is still checked
