"""Training with muP: at the base width equal to standard training; saved, reloaded, continued."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import assert_same
from omegaconf import DictConfig
from safetensors.torch import load_file

from etude.api import Run
from etude.config.checks import check
from etude.config.compose import compose
from etude.errors import RequestError
from etude.training.init_from import InitFromSource
from etude.training.run import train

Small = Callable[..., DictConfig]
Words = Callable[..., list[str]]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [[], ["optimizer=muon", "~optimizer.betas"]])
def test_at_the_base_width_it_is_the_standard_run(
    words: Words, tmp_path: Path, optimizer: list[str]
) -> None:
    weights, rates = [], []
    for base in ("null", "8", "4"):
        config = compose(words(tmp_path, *optimizer, f"model.mup_base_dim={base}"))
        record = train(config).record
        weights.append(load_file(record.checkpoint("last") / "model.safetensors"))
        rates.append([row["train/loss"] for row in record.rows() if "train/loss" in row])
    standard, same, other = weights
    for name, tensor in standard.items():
        assert torch.equal(tensor, same[name]), name
    assert rates[0] == rates[1] != rates[2]
    assert any(not torch.equal(tensor, other[name]) for name, tensor in standard.items())


def test_paused_and_continued(small: Small, tmp_path: Path) -> None:
    mup = "model.mup_base_dim=4"
    whole = train(small(tmp_path / "whole", mup)).record
    train(small(tmp_path / "cut", mup, "run.stop_at_step=13"))
    cut = train(small(tmp_path / "cut", mup)).record
    assert_same(cut, whole)
    state = torch.load(cut.checkpoint("last") / "state.pt", weights_only=True)
    base = {group["base_lr"] for group in state["optimizer_states"][0]["param_groups"]}
    assert base == {1e-3, 5e-4}


def test_a_record_gives_its_model_back(small: Small, tmp_path: Path) -> None:
    run = Run(train(small(tmp_path, "model.mup_base_dim=4")).record)
    model = run.model("last")
    assert model.module.logit_scale == 0.5  # type: ignore[union-attr]
    rows = [row for row in run.record.rows() if "val/loss" in row]
    assert run.evaluate("val", which="last")["loss"] == pytest.approx(rows[-1]["val/loss"])


def test_what_weights_mean_is_the_sources(words: Words, tmp_path: Path) -> None:
    record = train(compose(words(tmp_path, "model.mup_base_dim=4"))).record
    following = [
        word
        for word in words(tmp_path, f"init_from.source={record.path}", "name=next")
        if not word.startswith("model.")
    ]
    resolve_config: Any = InitFromSource.resolve_config(compose(following))
    assert resolve_config.model.mup_base_dim == 4
    with pytest.raises(RequestError, match=r"model\.mup_base_dim"):
        check(compose([*following, "model.mup_base_dim=2"]))
