"""Averaged weights: by the formula, validated and saved, and continued to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from comparing import assert_equal, assert_same
from safetensors.torch import load_file

import etude
from etude.config.compose import compose
from etude.errors import RequestError
from etude.training.run import train

EMA = ["trainer.ema_decay=0.8", "model.dropout=0.2", "optimizer.lr=1e-2"]


def state(folder: Path) -> dict:
    return torch.load(folder / "state.pt", weights_only=True)


def test_the_average_by_its_formula(toy: Callable, tmp_path: Path) -> None:
    more = [*EMA, "run.save_every=1", "run.keep_every=1", "trainer.max_steps=12"]
    record = train(compose(toy("classification", tmp_path, *more))).record
    found = record.checkpoints()
    assert [step for step, _ in found] == [*range(1, 13)]
    states = [state(folder) for _, folder in found]
    name = "head.classifier.weight"
    # the first weights are where the average begins: what it is after step 1 says which
    weights = [each["in_training"][name].double() for each in states]
    d = min(0.8, 1 / 10)
    average = states[0]["averaged"][name].double()
    first = (average - (1 - d) * weights[0]) / d
    assert (first - weights[0]).abs().max() < 0.2  # a step of Adam at this rate
    for step in range(1, 12):
        d = min(0.8, (1 + step) / (10 + step))
        average = d * average + (1 - d) * weights[step]
        saved = load_file(found[step][1] / "model.safetensors")[name].double()
        assert torch.allclose(saved, average, atol=1e-6)
        assert not torch.allclose(saved, weights[step], atol=1e-4)


def test_it_is_what_was_validated(toy: Callable, tmp_path: Path) -> None:
    record = train(compose(toy("classification", tmp_path, *EMA))).record
    run = etude.load_run(record.path)
    step = record.info["best"]["step"]
    (row,) = (row for row in record.rows() if row["step"] == step)
    assert run.evaluate()["loss"] == pytest.approx(row["val/loss"], rel=1e-5)
    plain = train(compose(toy("classification", tmp_path, *EMA[1:]))).record
    assert plain.path != record.path
    losses = [[row.get("train/loss") for row in each.rows()] for each in (record, plain)]
    assert losses[0] == losses[1]  # training itself knows nothing of it


@pytest.mark.parametrize("kind", ["classification", "translation"])
def test_goes_on_to_the_bit(kind: str, toy: Callable, tmp_path: Path) -> None:
    whole = train(compose(toy(kind, tmp_path / "whole", *EMA))).record
    for cut in (3, 7):
        train(compose(toy(kind, tmp_path / "cut", *EMA, f"run.stop_at_step={cut}")))
    again = train(compose(toy(kind, tmp_path / "cut", *EMA))).record
    assert_same(again, whole)
    one, other = (state(each.checkpoints()[-1][1]) for each in (whole, again))
    for key in ("averaged", "in_training"):
        assert_equal(one[key], other[key])


@pytest.mark.parametrize("bad", ["1.0", "-0.1"])
def test_what_is_no_decay_is_refused(bad: str, toy: Callable, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="ema_decay"):
        train(compose(toy("classification", tmp_path, f"trainer.ema_decay={bad}")))
