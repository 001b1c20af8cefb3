"""Range test of the learning rate, on a bowl with known losses and on an unaffected run."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

import etude
from etude.analysis.learning_rates import suggest_rates
from etude.config.compose import compose
from etude.errors import EtudeError, Interrupted, InvalidArguments
from etude.optim.sgd import SGD
from etude.tasks.base import Setup, Task
from etude.tasks.causal_lm import CausalLM
from etude.training.range_test import LossRecorder, RangeTestResult, RisingSchedule
from etude.training.run import train
from etude.training.trainer import Trainer

Small = Callable[..., DictConfig]


class Bowl(Task):
    """Task with the loss floor + h w^2 / 2 from w = 1, independent of the batch."""

    h, floor = 1.0, 0.0

    def loss(self, micro: dict[str, Any]) -> Tensor:
        (w,) = self.model.parameters()
        return self.floor + 0.5 * self.h * w.square().sum()


class Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))


def tried(
    folder: Path, lowest: float, highest: float, steps: int = 100, task: type[Task] = Bowl
) -> LossRecorder:
    """Returns the `LossRecorder` after a test with SGD and a base rate of 0.5."""
    rising = RisingSchedule(lowest, highest, base=0.5)
    setup = Setup(Point(), SGD(0.5), rising, steps, seed=0)
    recorder = LossRecorder(rising, steps, RangeTestResult(0.5, folder))
    trainer = Trainer(max_steps=steps, accelerator="cpu").build(
        total_steps=steps, callbacks=[recorder], folder=folder
    )
    batches = DataLoader([[{"step_targets": 1}]] * steps, batch_size=None)  # type: ignore[arg-type]
    try:
        trainer.fit(task(setup), batches)
    finally:
        recorder.close()
    return recorder


@pytest.mark.parametrize("h", [1.0, 20.0])
def test_steepest_on_a_bowl(tmp_path: Path, h: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step multiplies w by 1 - h lr. For small h lr the loss is exp(-2 h lr / ln r) if the
    rate rises by r each step, and steepest at lr = ln r / 2 h."""
    monkeypatch.setattr(Bowl, "h", h)
    sweep = tried(tmp_path, 1e-3 / h, 1.0 / h).sweep
    assert len(sweep.rates) == 100
    assert sweep.ended is None
    rates = np.geomspace(1e-3 / h, 1.0 / h, 100)
    np.testing.assert_allclose(sweep.rates, rates, rtol=1e-9)
    w = np.concatenate([[1.0], np.cumprod(1 - h * rates)[:-1]])
    np.testing.assert_allclose(sweep.losses, 0.5 * h * w**2, rtol=1e-6)
    best = math.log(1000) / 99 / (2 * h)
    found = suggest_rates(sweep, 100)
    assert found.steepest is not None
    assert best / 1.4 < found.steepest < best * 1.4
    assert list(tmp_path.iterdir()) == []


def test_ends_past_twice_the_inverse_curvature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bowl, "floor", 1.0)
    sweep = tried(tmp_path, 1.9, 100.0).sweep
    assert "exceeds 4 times its minimum" in (sweep.ended or "")
    assert 2.0 < sweep.rates[-1] < 20.0
    assert sweep.losses[-1] > 4 * min(sweep.losses)


def test_ends_where_the_loss_is_no_number(tmp_path: Path) -> None:
    class Cliff(Bowl):
        def loss(self, micro: dict[str, Any]) -> Tensor:
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            return super().loss(micro) * (math.nan if rate > 0.1 else 1.0)

    sweep = tried(tmp_path, 1e-3, 1.0, task=Cliff).sweep
    assert "the loss is nan at a learning rate of 0.1" in (sweep.ended or "")
    assert all(math.isfinite(loss) for loss in sweep.losses)
    assert sweep.rates[-1] < 0.1


def contents(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def states() -> list[Any]:
    return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]


def test_nothing_else_is_touched(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test doesn't change records, random numbers, threads, the working folder or later
    training."""
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    before = train(small(runs)).record
    files, drawn = contents(tmp_path), states()
    found = etude.find_learning_rate(small(runs), lowest=1e-5, highest=1.0, steps=40)
    assert states() == drawn
    assert not torch.are_deterministic_algorithms_enabled()
    new = {name for name in contents(tmp_path) if name not in files}
    assert new == {f"{found.folder.relative_to(tmp_path)}/{name}" for name in ("lr.json", "lr.png")}
    assert found.folder == runs / "_lr" / before.path.name
    assert {name: digest for name, digest in contents(tmp_path).items() if name in files} == files
    assert [run.path for run in etude.runs(runs)] == [before.path]
    again = train(small(tmp_path / "again")).record
    one, other = (load_file(r.checkpoint("last") / "model.safetensors") for r in (before, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_rate_rises_in_proportion(
    small: Small, words: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float]] = []
    original = LossRecorder.on_train_batch_end

    def look(self: LossRecorder, trainer: Any, *rest: Any) -> None:
        rates = {group["lr"] for group in trainer.optimizers[0].param_groups}
        seen.append((max(rates), min(rates)))
        original(self, trainer, *rest)

    monkeypatch.setattr(LossRecorder, "on_train_batch_end", look)
    more = [
        "optimizer=muon",
        "optimizer.lr=2e-2",
        "optimizer.adamw_lr=1e-3",
        "trainer.ema_decay=0.9",
    ]
    config = compose([*words(tmp_path), *more, "trainer.ema_decay=0.9"])
    found = etude.find_learning_rate(config, lowest=1e-4, highest=1e-1, steps=12)
    assert found.base == 2e-2
    np.testing.assert_allclose([high for high, _ in seen], np.geomspace(1e-4, 1e-1, 12))
    np.testing.assert_allclose([high / low for high, low in seen], 20.0)


def test_a_run_that_it_speaks_for(small: Small, tmp_path: Path) -> None:
    """The suggested rate reduces the loss more in forty steps than a hundredth of it."""
    more = ("data.batch.examples=16", "trainer.micro_batch=null", "model.dropout=0")
    found = etude.find_learning_rate(small(tmp_path, *more), steps=80)
    assert found.suggestion is not None
    assert 1e-4 < found.suggestion < 1.0
    ends = [
        train(small(tmp_path, *more, f"optimizer.lr={rate}")).record.info["final"]["val/loss"]
        for rate in (found.suggestion, found.suggestion / 100)
    ]
    assert ends[0] < ends[1]


def test_a_loss_that_is_none_from_the_beginning(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = CausalLM.loss
    monkeypatch.setattr(CausalLM, "loss", lambda self, micro: original(self, micro) * math.nan)
    told = (
        r"the learning-rate range test has only 0 finite losses, but needs at least 10: "
        "the loss is nan at a learning rate of 1e-06"
    )
    with pytest.raises(EtudeError, match=told):
        etude.find_learning_rate(small(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_a_signal(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LossRecorder.on_train_batch_end

    def stopped(self: LossRecorder, *given: Any) -> None:
        self.signals.requested = 15
        original(self, *given)

    monkeypatch.setattr(LossRecorder, "on_train_batch_end", stopped)
    with pytest.raises(Interrupted):
        etude.find_learning_rate(small(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ({"lowest": 0.0}, "lowest"),
        ({"highest": math.inf}, "highest"),
        ({"lowest": math.nan}, "lowest"),
        ({"lowest": 1e-2, "highest": 1e-3}, "highest"),
        ({"steps": 3}, "steps"),
    ],
)
def test_what_is_no_range(small: Small, tmp_path: Path, bad: dict, where: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        etude.find_learning_rate(small(tmp_path / "runs"), **bad)
    assert [problem.where for problem in refused.value.problems] == [where]
    assert not (tmp_path / "runs").exists()
