"""Averaged weights follow the formula, are validated and saved, and continue bit for bit."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import apart
import pytest
import torch
from comparing import assert_equal, assert_same
from safetensors.torch import load_file

import etude
from etude.config.compose import compose
from etude.errors import RequestError
from etude.training.run import train

EMA = ["trainer.ema_decay=0.8", "model.dropout=0.2", "optimizer.lr=1e-2"]
FREE = [
    "optimizer=schedule_free", "schedule=constant", "model.dropout=0.2", "optimizer.lr=1e-2"
]  # fmt: skip


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more"), [("classification", EMA), ("translation", EMA), ("translation", FREE)]
)
def test_goes_on_to_the_bit(kind: str, more: list[str], toy: Callable, tmp_path: Path) -> None:
    whole = train(compose(toy(kind, tmp_path / "whole", *more))).record
    for cut in (3, 7):
        train(compose(toy(kind, tmp_path / "cut", *more, f"run.stop_at_step={cut}")))
    again = train(compose(toy(kind, tmp_path / "cut", *more))).record
    assert_same(again, whole)
    one, other = (state(each.checkpoints()[-1][1]) for each in (whole, again))
    for key in ("averaged", "in_training"):
        assert_equal(one[key], other[key])


@pytest.mark.slow
def test_killed_without_a_schedule_and_started_again(toy: Callable, tmp_path: Path) -> None:
    more = [*FREE, "run.save_every=4", "run.keep_last=3", "trainer.max_steps=30"]
    whole = train(compose(toy("classification", tmp_path / "whole", *more))).record
    words = toy("classification", tmp_path / "killed", *more)
    process = apart.start(words, tmp_path / "output.txt", "killed_after_a_save", 5)
    assert apart.finish(process) == -signal.SIGKILL
    record = train(compose(words)).record
    first, second = record.info["starts"]
    assert first["step"] == 0 < second["step"]
    assert_same(record, whole)
    assert [step for step, _ in record.checkpoints()] == [step for step, _ in whole.checkpoints()]


@pytest.mark.slow
def test_two_processes_average_as_one_does(toy: Callable, tmp_path: Path) -> None:
    more = [*FREE, "model.dropout=0", "trainer.precision=64"]
    both = ["trainer=ddp", "trainer.devices=2"]
    one = train(compose(toy("classification", tmp_path / "one", *more))).record
    two = train(compose(toy("classification", tmp_path / "two", *more, *both))).record
    mine, theirs = (load_file(r.checkpoint("last") / "model.safetensors") for r in (one, two))
    for name, tensor in mine.items():
        assert torch.allclose(tensor, theirs[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bad", ["1.0", "-0.1"])
def test_what_is_no_decay_is_refused(bad: str, toy: Callable, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="ema_decay"):
        train(compose(toy("classification", tmp_path, f"trainer.ema_decay={bad}")))


@pytest.mark.parametrize("more", [EMA, FREE])
def test_a_shared_parameter_is_averaged_under_all_of_its_names(
    more: list[str], toy: Callable, tmp_path: Path
) -> None:
    """The embedding of an encoder-decoder is saved once and loaded under two names."""
    record = train(compose(toy("translation", tmp_path, *more))).record
    folder = record.checkpoint("last")
    kept = state(folder)
    y = kept["in_training"]["encoder.embedding.weight"]
    module = etude.load_run(record.path).model("last").module
    found = module.decoder.embedding.weight.detach()
    assert found is not y
    assert torch.equal(found, load_file(folder / "model.safetensors")["encoder.embedding.weight"])
    assert not torch.allclose(found, y, atol=1e-5)
    if more is EMA:
        assert torch.equal(found, kept["averaged"]["encoder.embedding.weight"])


def test_a_schedule_free_run_is_validated_and_used_at_its_average(
    toy: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """x = (y - (1 - b1) z) / b1, from the optimizer's state; z by the order of its groups."""
    record = train(compose(toy("classification", tmp_path, *FREE))).record
    assert "the learning rate decays" not in caplog.text
    folder = record.checkpoint("last")
    kept = state(folder)
    (optimizer,) = kept["optimizer_states"]
    weights = load_file(folder / "model.safetensors")
    run = etude.load_run(record.path)
    names = [name for name, _ in run.model().module.named_parameters()]
    matrices = [name for name in names if weights[name].dim() >= 2]
    order = matrices + [name for name in names if weights[name].dim() < 2]
    for number, name in enumerate(order):
        y, z = kept["in_training"][name].double(), optimizer["state"][number]["z"].double()
        x = (y - 0.1 * z) / 0.9
        assert torch.allclose(weights[name].double(), x, atol=1e-6)
    assert not torch.equal(weights["embedding.weight"], kept["in_training"]["embedding.weight"])
    step = record.info["best"]["step"]
    (row,) = (row for row in record.rows() if row["step"] == step)
    assert run.evaluate()["loss"] == pytest.approx(row["val/loss"], rel=1e-5)


def test_what_does_not_go_with_schedule_free(
    toy: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = ["optimizer=schedule_free", "trainer.max_steps=6"]
    with pytest.raises(
        RequestError, match=r"ema_decay = 0\.9: expected null \(ScheduleFree already aver"
    ):
        train(compose(toy("classification", tmp_path, *more, "trainer.ema_decay=0.9")))
    train(compose(toy("classification", tmp_path, *more)))
    assert "set schedule=constant (warmup, then a constant rate)" in caplog.text
