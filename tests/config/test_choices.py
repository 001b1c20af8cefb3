"""The chosen file of each group is recorded and is not part of the signature."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etude.config.checks import check
from etude.config.compose import compose
from etude.config.flattening import flatten, flatten_config
from etude.records.signature import signature


def test_the_files_chosen_stand_in_the_config() -> None:
    choices = compose(["experiment=debug", "model/position=alibi"]).run.choices
    assert choices["model"] == "nano"
    assert choices["model/position"] == "alibi"
    assert choices["data/tokenizer"] == "char"  # by the experiment's file
    assert choices["experiment"] == "debug"
    assert not [group for group in choices if group.startswith("hydra")]


def test_a_class_set_by_hand_has_no_file() -> None:
    choices = compose(["model.norm._target_=etude.nn.norm.RMSNorm"]).run.choices
    assert "model/norm" not in choices
    assert choices["model/position"] == "rotary"


def test_they_are_out_of_the_signature() -> None:
    config = compose(["experiment=debug"])
    before = signature(check(config).identity)
    config.run.choices = {}
    assert signature(check(config).identity) == before


def test_the_recorded_values_are_those_that_entered_the_signature_and_the_defaults() -> None:
    checked = check(compose(["experiment=debug", "optimizer.lr=1", "vars.x=${oc.env:HOME}"]))
    values = flatten_config(checked)
    for path, value in flatten(checked.identity):
        if path not in ("callbacks", "extensions"):
            assert values[path] == value, path
    assert values["optimizer.lr"] == 1
    assert values["model.dropout"] == 0  # the default, which the signature leaves out
    assert values["model.max_length"] == values["data.sequence_length"] == 32
    assert values["vars.x"] == "${oc.env:HOME}"
    assert not [path for path in values if path.startswith(("run.", "logger."))]


def test_every_job_of_a_sweep_records_its_own(
    etude: Callable[..., Any], tiny: Callable[..., list[str]], corpus: Path, tmp_path: Path
) -> None:
    words = [*tiny(corpus, tmp_path / "runs"), "run.samples=0", "model/position=none,alibi", "-m"]
    assert etude("train", *words).code == 0
    infos = [json.loads(path.read_text()) for path in (tmp_path / "runs/tiny").glob("*/run.json")]
    assert sorted(info["choices"]["model/position"] for info in infos) == ["alibi", "none"]
    for info in infos:
        target = info["config"]["model.position._target_"].rpartition(".")[2]
        assert {"none": "NoPosition", "alibi": "ALiBi"}[info["choices"]["model/position"]] == target
    found = etude("runs", "list", "--root", tmp_path / "runs", "model/position=alibi")
    assert len(found.out.splitlines()) == 2
