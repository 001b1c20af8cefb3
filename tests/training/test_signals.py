"""Ctrl-C and SIGTERM: saved at the step, continued exactly, with the right exit code."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparing import assert_same, rows
from omegaconf import DictConfig

from etude.errors import Interrupted
from etude.records.record import Record
from etude.tasks.causal_lm import CausalLM
from etude.training.run import train
from etude.training.signals import StopSignals

Small = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def whole(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return train(small(tmp_path_factory.mktemp("whole"))).record


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`during("training_step", 10, SIGINT)` sends a signal to this process in the tenth call."""

    def plant(method: str, call: int, *signums: int) -> None:
        original = getattr(CausalLM, method)
        calls = 0

        def planted(self: CausalLM, *arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                for signum in signums:
                    os.kill(os.getpid(), signum)
            return original(self, *arguments)

        monkeypatch.setattr(CausalLM, method, planted)

    return plant


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_saved_at_the_step(
    small: Small,
    whole: Record,
    words: Callable[..., list[str]],
    etude: Callable[..., Any],
    during: Callable[..., None],
    tmp_path: Path,
    signum: int,
    code: int,
) -> None:
    during("training_step", 12, signum)
    answer = etude("train", *words(tmp_path))
    assert answer.code == code
    assert "run the same command again to continue" in answer.err
    record = Record.read(tmp_path / "tiny" / whole.path.name)
    assert record.info["status"] == "interrupted"
    assert record.info["step"] == record.checkpoints()[-1][0] == 12
    assert_same(train(small(tmp_path)).record, whole)


# 7 is validated, neither saved nor written otherwise; 28 is validated and written; 40 is the end.
@pytest.mark.parametrize(("validation", "step"), [(1, 7), (4, 28), (6, 40)])
def test_in_a_validation(
    small: Small,
    whole: Record,
    during: Callable[..., None],
    tmp_path: Path,
    validation: int,
    step: int,
) -> None:
    batches = 2  # of a validation: the full windows, and what is left
    during("validation_step", (validation - 1) * batches + 1, signal.SIGINT)
    with pytest.raises(Interrupted):
        train(small(tmp_path))
    record = Record.read(tmp_path / "tiny" / whole.path.name)
    assert record.info["step"] == record.checkpoints()[-1][0] == step
    assert max(row["step"] for row in [{"step": 0}, *rows(record)]) < step
    assert_same(train(small(tmp_path)).record, whole)


def test_in_the_validation_that_makes_up_for_it(
    small: Small, whole: Record, during: Callable[..., None], tmp_path: Path
) -> None:
    for call in (7, 1):  # in the fourth validation, then in its repetition
        during("validation_step", call, signal.SIGINT)
        with pytest.raises(Interrupted):
            train(small(tmp_path))
    record = Record.read(tmp_path / "tiny" / whole.path.name)
    assert record.info["step"] == record.checkpoints()[-1][0] == 28
    assert_same(train(small(tmp_path)).record, whole)


def test_a_row_made_up_for_is_not_written_twice(
    small: Small, whole: Record, during: Callable[..., None], tmp_path: Path
) -> None:
    during("validation_step", 7, signal.SIGINT)
    with pytest.raises(Interrupted):
        train(small(tmp_path))

    class Gone(BaseException):
        pass

    def die(self: Any, *_: Any) -> None:
        raise Gone  # after the row of step 28, before anything is saved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("etude.training.loop.RunLoop.on_train_batch_end", die)
        patch.setattr("etude.training.loop.RunLoop._save", lambda *_: None)
        with pytest.raises(Gone):
            train(small(tmp_path))
    record = Record.read(tmp_path / "tiny" / whole.path.name)
    assert rows(record)[-1]["step"] == 28
    assert_same(train(small(tmp_path)).record, whole)


def test_in_the_last_step(
    small: Small, whole: Record, during: Callable[..., None], tmp_path: Path
) -> None:
    during("training_step", 40, signal.SIGINT)
    with pytest.raises(Interrupted):
        train(small(tmp_path))
    assert_same(train(small(tmp_path)).record, whole)


def test_the_second_stops_at_once(
    small: Small,
    whole: Record,
    words: Callable[..., list[str]],
    etude: Callable[..., Any],
    during: Callable[..., None],
    tmp_path: Path,
) -> None:
    during("training_step", 12, signal.SIGINT, signal.SIGINT)
    answer = etude("train", *words(tmp_path))
    assert answer.code == 130
    assert "the last checkpoint is intact" in answer.err
    record = Record.read(tmp_path / "tiny" / whole.path.name)
    assert record.info["status"] == "interrupted"
    assert record.checkpoints()[-1][0] == 10
    assert_same(train(small(tmp_path)).record, whole)


def test_before_training_nothing_is_left(
    words: Callable[..., list[str]],
    etude: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def interrupt(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("etude.training.run.build_model", interrupt)
    assert etude("train", *words(tmp_path / "runs")).code == 130
    assert not (tmp_path / "runs").exists()


def test_in_the_epilogue(small: Small, whole: Record, tmp_path: Path) -> None:
    def interrupt(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(small(tmp_path), epilogue=interrupt)
    record = Record.read(tmp_path / "tiny" / whole.path.name)
    assert record.status == "interrupted"
    again = train(small(tmp_path))
    assert not again.reused
    assert_same(again.record, whole)


@pytest.mark.parametrize("ending", ["finished", "paused", "interrupted", "failed"])
def test_handlers_are_given_back(
    small: Small,
    during: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    ending: str,
) -> None:
    more = ["trainer.max_steps=3"]
    if ending == "paused":
        more.append("run.stop_at_step=2")
    elif ending == "interrupted":
        during("training_step", 2, signal.SIGTERM)
    elif ending == "failed":
        monkeypatch.setattr(CausalLM, "loss", None)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        train(small(tmp_path, *more))
    except Exception:
        assert ending in ("interrupted", "failed")
    (record,) = (Record.read(path.parent) for path in tmp_path.rglob("run.json"))
    assert record.status == ending
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_forked_worker_leaves_signals_to_its_parent() -> None:
    signals = StopSignals()
    signals.install()
    try:
        child = os.fork()
        if child == 0:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)
            os._exit(0 if signals.requested is None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        signals.restore()
