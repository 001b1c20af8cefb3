"""Failing runs: NaN, out of memory, other errors."""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import assert_same
from omegaconf import DictConfig
from safetensors.torch import load_file

from etude.errors import RunFailed
from etude.records.record import Record
from etude.tasks.causal_lm import CausalLM
from etude.training.run import train

Small = Callable[..., DictConfig]
Words = Callable[..., list[str]]


@pytest.fixture(scope="module")
def whole(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return train(small(tmp_path_factory.mktemp("whole"))).record


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[Any], Any]], None]:
    """`at_step(7, change)` applies `change` to the losses of the seventh step."""
    original = CausalLM.loss

    def plant(step: int, change: Callable[[Any], Any]) -> None:
        def loss(self: CausalLM, micro: Any) -> Any:
            value = original(self, micro)
            return change(value) if self.trainer.global_step + 1 == step else value

        monkeypatch.setattr(CausalLM, "loss", loss)

    return plant


def poisoned_gradient(loss: torch.Tensor) -> torch.Tensor:
    result = loss * 1.0
    result.register_hook(lambda gradient: gradient * math.nan)
    return result


def assert_sound(record: Record, before: int) -> None:
    """Asserts that checkpoints are of earlier steps and finite, and that the best one exists."""
    found = dict(record.checkpoints())
    assert found
    assert max(found) < before
    for folder in found.values():
        weights = load_file(folder / "model.safetensors")
        assert all(tensor.isfinite().all() for tensor in weights.values())
    if record.info["best"]:
        assert record.info["best"]["step"] in found


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [7, 11, 40])
def test_the_step_of_a_bad_loss_is_named(
    small: Small, at_step: Callable, tmp_path: Path, step: int, value: float
) -> None:
    at_step(step, lambda loss: loss * value)
    with pytest.raises(RunFailed, match=f"train/loss is {value} at step {step} "):
        train(small(tmp_path))
    (path,) = tmp_path.rglob("run.json")
    record = Record.read(path.parent)
    assert record.status == "diverged"
    told = record.info["diverged"]
    assert (told["metric"], told["step"], told["value"]) == ("train/loss", step, str(value))
    assert_sound(record, step)


def test_a_diverged_run_says_so_again(
    words: Words, small: Small, whole: Record, etude: Callable, at_step: Callable, tmp_path: Path
) -> None:
    at_step(11, lambda loss: loss * math.nan)
    first = etude("train", *words(tmp_path))
    assert first.code == 1
    assert "diverged: train/loss is nan at step 11" in first.err
    assert (
        "try a lower optimizer.lr, or clip gradients with trainer.gradient_clip_val=1" in first.err
    )
    folder = tmp_path / "tiny" / whole.path.name
    before = (folder / "metrics.jsonl").read_text()
    second = etude("train", *words(tmp_path))
    assert second.code == 1
    assert "already diverged at step 11" in second.err
    assert (folder / "metrics.jsonl").read_text() == before
    at_step(0, lambda loss: loss)
    again = train(small(tmp_path, "run.on_existing=again")).record
    assert again.path.name == f"{folder.name}~2"
    assert_same(again, whole)


@pytest.mark.parametrize(
    ("more", "metric", "step"),
    [
        ([], "train/grad_norm", 9),
        # Without clipping nobody computes the norm: the next loss shows it,
        (["trainer.gradient_clip_val=null"], "train/loss", 10),
        # unless the weights would be saved before.
        (["trainer.gradient_clip_val=null", "run.save_every=9"], "a weight", 9),
    ],
)
def test_a_bad_gradient(
    small: Small, at_step: Callable, tmp_path: Path, more: list[str], metric: str, step: int
) -> None:
    at_step(9, poisoned_gradient)
    with pytest.raises(RunFailed, match=f"{metric} is nan at step {step} "):
        train(small(tmp_path, *more))
    (path,) = tmp_path.rglob("run.json")
    record = Record.read(path.parent)
    assert record.status == "diverged"
    assert_sound(record, 9)


def test_a_bad_validation(small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = CausalLM.validation_step

    def poisoned(self: CausalLM, *arguments: Any) -> None:
        original(self, *arguments)
        if self.trainer.global_step == 21:
            for metrics in self._validated.values():
                metrics.nats.add(math.nan)

    monkeypatch.setattr(CausalLM, "validation_step", poisoned)
    with pytest.raises(RunFailed, match="val/loss is nan at step 21 "):
        train(small(tmp_path))
    (path,) = tmp_path.rglob("run.json")
    record = Record.read(path.parent)
    assert record.status == "diverged"
    assert record.info["diverged"]["metric"] == "val/loss"
    assert_sound(record, 21)


def test_scaled_gradients_may_overflow(small: Small, at_step: Callable, tmp_path: Path) -> None:
    # Half precision skips such steps by itself; its losses are watched all the same.
    from etude.training.loop import Diverged, RunLoop

    loop = RunLoop(
        record=Record(tmp_path),
        total_steps=9,
        val_interval=9,
        log_interval=9,
        save_interval=None,
        keep_every=None,
        stop_at_step=None,
        tokens_per_step=1,
        watch_gradients=False,
    )
    loop._losses, loop._norms = [1.0, 1.0], [math.inf, 1.0]
    loop._check_finite(2)
    loop._losses += [math.nan]
    loop._norms += [1.0]
    with pytest.raises(Diverged, match="train/loss is nan at step 3"):
        loop._check_finite(3)


ERRORS = [
    (MemoryError(), "oom", "reduce trainer.micro_batch to use less memory"),
    (
        torch.OutOfMemoryError("CUDA out of memory"),
        "oom",
        "reduce trainer.micro_batch to use less memory",
    ),
    (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        "oom",
        "reduce trainer.micro_batch to use less memory",
    ),
    (ZeroDivisionError("by zero,\nat length"), "failed", "ZeroDivisionError: by zero,"),
    (KeyError("key"), "failed", "KeyError: 'key'"),
]


@pytest.mark.parametrize(
    ("error", "status", "told"), ERRORS, ids=[type(error).__name__ for error, *_ in ERRORS]
)
def test_any_error(
    words: Words,
    small: Small,
    whole: Record,
    etude: Callable,
    at_step: Callable,
    tmp_path: Path,
    error: Exception,
    status: str,
    told: str,
) -> None:
    def fail(loss: Any) -> Any:
        raise error

    at_step(12, fail)
    answer = etude("train", *words(tmp_path))
    assert answer.code == 1
    assert answer.err.startswith(f"etude: {status}: {type(error).__name__}")
    assert told in answer.err
    assert "Traceback" not in answer.err + answer.out
    record = Record.read(tmp_path / "tiny" / whole.path.name)
    assert str(record.path / "log.txt") in answer.err
    assert record.status == status
    assert record.info["error"] == f"{type(error).__name__}: {error}"
    log = (record.path / "log.txt").read_text()
    assert "Traceback" in log
    assert "in fail" in log
    assert record.checkpoints()[-1][0] == 10

    at_step(0, lambda loss: loss)
    record = train(small(tmp_path)).record  # tries again, from the last checkpoint
    assert [start["step"] for start in record.info["starts"]] == [0, 10]
    assert "error" not in Record.read(record.path).info
    assert_same(record, whole)


def test_a_full_disk(
    small: Small, whole: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original, calls = torch.save, 0

    def full(value: Any, path: Path) -> None:
        nonlocal calls
        calls += 1
        original(value, path)
        if calls == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(RunFailed, match="No space left on device"):
            train(small(tmp_path))
    record = Record.read(tmp_path / "tiny" / whole.path.name)
    assert record.status == "failed"
    assert [step for step, _ in record.checkpoints()] == [5, 7]
    assert not list(record.path.rglob(".*tmp*"))
    assert_same(train(small(tmp_path)).record, whole)


def test_the_log_is_closed_and_as_loud_as_before(
    small: Small, at_step: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logger = logging.getLogger("etude")
    monkeypatch.setattr(logger, "level", logging.WARNING)
    before = (logger.level, list(logger.handlers))
    at_step(2, lambda loss: loss * math.nan)
    with pytest.raises(RunFailed):
        train(small(tmp_path))
    assert (logger.level, logger.handlers) == before
