"""Tokens and FLOPs per second: counted correctly, measured during training only, in every run."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comparing import SPEED
from omegaconf import DictConfig
from torch import nn

from etude.records.record import Record
from etude.tasks.causal_lm import CausalLM
from etude.training import loop, throughput
from etude.training import run as run_module
from etude.training.progress import Progress
from etude.training.run import train
from etude.training.throughput import (
    Throughput,
    compute_dtype,
    flops_per_token,
    machine_peak,
    matmul_peak,
)

Small = Callable[..., DictConfig]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that only changes with `clock.now`."""
    hands = SimpleNamespace(now=100.0)
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: hands.now))
    return hands


# -- the arithmetic -----------------------------------------------------------------------------


def test_pauses_are_not_counted(clock: SimpleNamespace) -> None:
    meter = Throughput(tokens_per_step=50)
    meter.flops_per_token, meter.peak = 1e6, 1e8
    meter.start(step=7)
    clock.now += 2.0
    meter.pause()
    clock.now += 100.0
    meter.pause()  # a save within a validation
    clock.now += 100.0
    meter.resume()
    meter.resume()
    clock.now += 3.0
    row = meter.since_last_row(step=17)  # ten steps in five seconds
    assert row == {
        "perf/tokens_per_second": 100.0,
        "perf/flops_per_second": 1e8,
        "perf/mfu": 1.0,
    }
    clock.now += 1.0
    assert meter.since_last_row(step=18)["perf/tokens_per_second"] == 50.0


def test_what_is_not_known_is_left_out(clock: SimpleNamespace) -> None:
    meter = Throughput(tokens_per_step=1)
    meter.start(0)
    clock.now += 0.5
    assert meter.since_last_row(1) == {"perf/tokens_per_second": 2.0}
    meter.flops_per_token = 3.0
    clock.now += 0.5
    assert meter.since_last_row(2) == {"perf/tokens_per_second": 2.0, "perf/flops_per_second": 6.0}


def test_a_share_above_one_is_told_as_it_is(clock: SimpleNamespace) -> None:
    meter = Throughput(tokens_per_step=1)
    meter.flops_per_token, meter.peak = 8.0, 4.0
    meter.start(0)
    clock.now += 1.0
    assert meter.since_last_row(1)["perf/mfu"] == 2.0


# -- the machine --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_peak_is_what_a_product_takes(dtype: torch.dtype) -> None:
    began = time.perf_counter()
    peak = matmul_peak.__wrapped__("cpu", dtype, torch.get_num_threads())
    assert time.perf_counter() - began < 3.0  # 0.4 s on a quiet machine
    a = torch.rand(512, 512).to(dtype)
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    assert 1 / 20 < peak / (2 * 512**3 / min(seconds)) < 20


def test_the_first_product_may_take_as_long_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
        if not sizes:
            time.sleep(0.5)  # a GPU's library is loaded
        sizes.append(a.shape[0])
        return 1e-5

    monkeypatch.setattr(throughput, "_seconds", seconds)
    found = matmul_peak.__wrapped__("cpu", torch.float32, 1)
    assert max(sizes) >= 1024
    assert found == 2 * max(sizes) ** 3 / 1e-5


@pytest.mark.parametrize(
    ("wait", "rate", "largest"),
    [
        (0.01, 1e14, 2048),  # a GPU that others use: the wait tells nothing of its rate
        (0.0, 1e9, 512),  # a slow CPU: 1024 would take two seconds
        (0.0, 1e14, 2048),
    ],
)
def test_sizes_are_doubled_while_the_time_lasts(
    monkeypatch: pytest.MonkeyPatch, wait: float, rate: float, largest: int
) -> None:
    def seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
        return wait + 2 * a.shape[0] ** 3 / rate

    monkeypatch.setattr(throughput, "_seconds", seconds)
    monkeypatch.setattr(throughput, "_LARGEST", 2048)
    found = matmul_peak.__wrapped__("cpu", torch.float32, 1)
    work = 2 * largest**3
    assert found == pytest.approx(work / (wait + work / rate))


def test_measuring_draws_none_of_the_runs_random_numbers() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    matmul_peak.__wrapped__("cpu", torch.float32, 1)
    assert torch.equal(torch.rand(3), expected)


def test_the_largest_peak_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def peak(found: float, dtype: torch.dtype = torch.float32) -> float:
        monkeypatch.setattr(throughput, "matmul_peak", lambda *_: found)
        return machine_peak(torch.device("cpu"), dtype, tmp_path / "cache")

    assert [peak(5.0), peak(7.0), peak(6.0)] == [5.0, 7.0, 7.0]
    assert peak(2.0, torch.bfloat16) == 2.0
    (file,) = (tmp_path / "cache").iterdir()
    known = json.loads(file.read_text())
    assert sorted(known.values()) == [[2.0], [5.0, 7.0, 6.0]]
    assert [peak(6.5), peak(6.4), peak(9.0)] == [7.0] * 3  # five are enough
    assert all(str(torch.__version__) in key for key in known)
    file.write_text("{")
    assert peak(3.0) == 3.0
    assert peak(1.0) == 3.0
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert machine_peak(torch.device("cpu"), torch.float32, blocked) == 1.0


def test_each_precision_has_its_products() -> None:
    names = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "64-true": torch.float64}
    assert {name: compute_dtype(name) for name in names} == names


# -- the model ----------------------------------------------------------------------------------


def test_flops_of_a_model_that_cannot_be_counted(caplog: pytest.LogCaptureFixture) -> None:
    class Choosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 3))

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.weight[tokens] if tokens.sum().item() > 2 else self.weight[tokens * 0]

    for _ in range(2):
        assert flops_per_token(Choosy, length=4, identity="choosy") is None
    (told,) = caplog.messages
    assert "cannot compute perf/flops_per_second and perf/mfu" in told


def test_flops_are_counted_once_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8))

    def counted(identity: str) -> float | None:
        monkeypatch.setattr(throughput, "_counted", {})  # as in another process
        return flops_per_token(build, length=4, identity=identity, memory=tmp_path)

    first = counted("small")
    assert first == 2 * 4 * 8 * 3 - 0  # forward, and twice as much backward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "cost", lambda *_, **__: pytest.fail("counted again"))
        assert counted("small") == first
    (file,) = (tmp_path / "flops").iterdir()
    file.write_text('"damaged"')
    assert counted("small") == first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "source_hash", lambda: "another")
        assert counted("small") == first
    assert len(list((tmp_path / "flops").iterdir())) == 2


# -- runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return train(small(tmp_path_factory.mktemp("run"), "data.batch.examples=8")).record


def test_in_every_row_with_a_training_loss(run: Record) -> None:
    rows = run.rows()
    assert any("train/loss" in row for row in rows)
    assert any("train/loss" not in row for row in rows)
    for row in rows:
        assert all((name in row) == ("train/loss" in row) for name in SPEED)
        assert all(row[name] > 0 and math.isfinite(row[name]) for name in SPEED if name in row)


def test_the_record_says_what_the_share_is_of(run: Record) -> None:
    start = run.info["starts"][-1]
    # 24 D^2 + 4 T D a layer for the matrices and the scores, 2 D V for the logits; backward twice.
    D, T, V = 8, 8, run.info["tokenizer"]["size"]
    assert start["flops_per_token"] == 3 * (24 * D * D + 4 * T * D + 2 * D * V)
    assert start["matmul_peak"] > 0
    assert start["device"]
    for row in run.rows():
        if "perf/mfu" in row:
            flops = row["perf/tokens_per_second"] * start["flops_per_token"]
            assert row["perf/flops_per_second"] == pytest.approx(flops, rel=1e-4)
            assert row["perf/mfu"] == pytest.approx(flops / start["matmul_peak"], rel=1e-3)


def test_the_speed_is_no_result(run: Record) -> None:
    assert "val/loss" in run.info["final"]
    assert not set(SPEED) & set(run.info["final"])


def test_training_is_measured_and_validation_and_saving_are_not(
    small: Small, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def takes(owner: Any, name: str, seconds: float) -> None:
        original = getattr(owner, name)

        def slow(*arguments: Any, **named: Any) -> Any:
            clock.now += seconds
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, slow)

    monkeypatch.setattr(run_module, "machine_peak", lambda *_: 1e9)
    takes(CausalLM, "configure_optimizers", 100.0)
    takes(CausalLM, "training_step", 2.0)
    takes(CausalLM, "on_validation_epoch_start", 100.0)
    takes(loop, "retain", 100.0)  # the last act of a save
    config = small(
        tmp_path,
        "trainer.max_steps=12",
        "trainer.log_every_n_steps=3",
        "trainer.val_check_interval=4",
        "run.save_every=2",
    )
    record = train(config).record
    assert clock.now > 1000
    rows = [row for row in record.rows() if "train/loss" in row]
    assert [row["step"] for row in rows] == [3, 6, 9, 12]
    assert [row["perf/tokens_per_second"] for row in rows] == [4 * 8 / 2.0] * 4


def test_a_continued_run_counts_its_own_steps(small: Small, tmp_path: Path) -> None:
    train(small(tmp_path, "run.stop_at_step=6"))  # rows at 4, 8, ...
    time.sleep(0.5)
    record = train(small(tmp_path)).record
    (row,) = [row for row in record.rows() if row["step"] == 8]
    assert all(name in row for name in SPEED)


def test_the_line_tells_the_speed() -> None:
    progress = Progress(10, 0)
    progress.advance(5)
    progress.row({"train/loss": 2.5, "perf/tokens_per_second": 13_940.0, "perf/mfu": 0.314})
    line = progress.line()
    assert line.startswith("step 5/10  train/loss 2.5000  13.9 k tokens/s  mfu 31%  ")
    assert line.endswith(" left")


def test_a_line_tells_what_is_new(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    progress = Progress(10, 0)
    progress.advance(5)
    progress.row({"train/loss": 2.5, "val/loss": 2.4})
    progress.row({"train/loss": 2.3})
    assert "val/loss 2.4000" in caplog.messages[-1]
    assert "train/loss 2.3000" in progress.line()
    assert "val/loss" not in progress.line()


def test_a_line_tells_the_monitored_metric_and_the_best(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    progress = Progress(30, 0, "val/f1")
    best = {"metric": "val/f1", "value": 0.91, "step": 10}
    for step, value in ((10, 0.91), (20, 0.87)):
        progress.advance(step)
        progress.row({"train/loss": 2.5, "val/loss": 2.4, "val/f1": value, "val/mcc": 0.5}, best)
    first, second = caplog.messages
    losses = "train/loss 2.5000  val/loss 2.4000"
    assert first.startswith(f"step 10/30  {losses}  val/f1 0.9100  best so far  ")
    told = "best at step 10 (val/f1 0.9100)"
    assert second.startswith(f"step 20/30  {losses}  val/f1 0.8700  {told}  ")
    progress.row({"train/loss": 2.3}, best)
    assert "best" not in progress.line()


def test_an_unused_srun_is_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    from etude.training.trainer import Trainer

    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    with pytest.warns(UserWarning, match="srun"):
        SLURMEnvironment.detect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Trainer(max_steps=1, accelerator="cpu").build(total_steps=1, callbacks=[], folder=tmp_path)
    assert not [each for each in caught if "srun" in str(each.message)]
