"""A stopped and continued run equals an uninterrupted one, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from comparing import assert_same, rows
from omegaconf import DictConfig

from etude.errors import Interrupted, RequestError
from etude.records.record import Record
from etude.training import run
from etude.training.run import train

Small = Callable[..., DictConfig]


def in_pieces(small: Small, root: Path, cuts: Sequence[int], *more: str) -> Record:
    """Pauses at each of `cuts`, then finishes."""
    for cut in cuts:
        outcome = train(small(root, f"run.stop_at_step={cut}", *more))
        assert outcome.status == Record.read(outcome.record.path).status == "paused"
        assert outcome.record.info["step"] == outcome.record.checkpoints()[-1][0] == cut
    return train(small(root, *more)).record


@pytest.fixture(scope="module")
def whole(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return train(small(tmp_path_factory.mktemp("whole"))).record


# The run validates every 7 steps, saves every 5, writes every 4, and has 40.
@pytest.mark.parametrize("cut", [1, 4, 5, 6, 7, 8, 20, 34, 35, 36, 38, 39])
def test_paused_once(small: Small, whole: Record, tmp_path: Path, cut: int) -> None:
    assert_same(in_pieces(small, tmp_path, [cut]), whole)


@pytest.mark.parametrize("cuts", [[1, 2, 3], [6, 7], [7, 14, 28], [13, 15]])
def test_paused_several_times(small: Small, whole: Record, tmp_path: Path, cuts: list[int]) -> None:
    record = in_pieces(small, tmp_path, cuts)
    assert_same(record, whole)
    assert [start["step"] for start in record.info["starts"]] == [0, *cuts]


def test_what_differs_from_where_it_began_is_told(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log_after(cut: int) -> str:
        return (
            train(small(tmp_path, f"run.stop_at_step={cut}")).record.path / "log.txt"
        ).read_text()

    log_after(2)
    told = log_after(4)
    assert "(before: " not in told
    assert "instead of" not in told
    torch.set_num_threads(2)
    assert "continuing with 2 threads instead of 1: " in log_after(6)
    monkeypatch.setattr(run, "device_name", lambda device: "Card of a GPU")
    torch.set_num_threads(1)  # the device says more
    told = log_after(8)
    assert "device Card of a GPU (before: " in told
    assert told.count("(before: ") == 1


def test_two_workers(small: Small, whole: Record, tmp_path: Path) -> None:
    assert_same(train(small(tmp_path / "whole", "data.workers=2")).record, whole)
    assert_same(in_pieces(small, tmp_path / "cut", [6, 21], "data.workers=2"), whole)


def test_other_workers_on_the_way_on(small: Small, whole: Record, tmp_path: Path) -> None:
    train(small(tmp_path, "run.stop_at_step=9", "data.workers=2"))
    assert_same(in_pieces(small, tmp_path, []), whole)


@pytest.mark.parametrize("cuts", [[9], [10], [11], [20, 30]])
def test_at_the_end_of_an_epoch(small: Small, tmp_path: Path, cuts: list[int]) -> None:
    more = ["data.order=epochs", "trainer.max_steps=null", "trainer.max_epochs=4"]
    record = train(small(tmp_path / "whole", *more)).record
    assert record.info["total_steps"] == 40
    assert_same(in_pieces(small, tmp_path / "cut", cuts, *more), record)


@pytest.mark.parametrize(
    "more",
    [
        ["trainer.micro_batch=null", "run.save_every=null", "trainer.gradient_clip_val=null"],
        ["trainer.micro_batch=1", "trainer.val_check_interval=null", "data.order=epochs"],
        ["data.batch.examples=7", "data.order=epochs", "trainer.log_every_n_steps=1"],
        ["trainer.max_steps=1"],
    ],
)
def test_other_settings(small: Small, tmp_path: Path, more: list[str]) -> None:
    record = train(small(tmp_path / "whole", *more)).record
    cuts = [8, 39] if record.info["total_steps"] == 40 else []
    assert_same(in_pieces(small, tmp_path / "cut", cuts, *more), record)


def test_dropout_makes_a_difference(small: Small, whole: Record, tmp_path: Path) -> None:
    # Else the tests above would say nothing about random numbers.
    without = train(small(tmp_path, "model.dropout=0")).record
    assert rows(without)[0]["train/loss"] != rows(whole)[0]["train/loss"]


def test_the_rows_are_those_asked_for(whole: Record) -> None:
    found = {row["step"]: row for row in rows(whole)}
    assert sorted(found) == sorted({*range(4, 41, 4), *range(7, 41, 7), 40})
    assert {step for step, row in found.items() if "val/loss" in row} == {*range(7, 41, 7), 40}
    assert {step for step, row in found.items() if "train/loss" in row} == set(range(4, 41, 4))
    assert all(row["tokens"] == step * 4 * 8 for step, row in found.items())


def test_a_finished_run_is_reused(small: Small, whole: Record) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.path.rglob("*") if path.is_file()}
    outcome = train(small(whole.path.parents[1]))
    assert outcome.reused
    assert outcome.status == "finished"
    after = {path: path.stat().st_mtime_ns for path in whole.path.rglob("*") if path.is_file()}
    assert after == before


def test_a_pause_that_was_reached_trains_no_further(small: Small, tmp_path: Path) -> None:
    config = small(tmp_path, "run.stop_at_step=9")
    train(config)
    again = train(config)
    assert (again.status, again.reused) == ("paused", True)
    earlier = train(small(tmp_path, "run.stop_at_step=3"))
    assert (earlier.status, earlier.record.info["step"]) == ("paused", 9)


def test_a_pause_past_the_end_finishes(small: Small, whole: Record, tmp_path: Path) -> None:
    assert_same(train(small(tmp_path, "run.stop_at_step=40")).record, whole)


def test_time_adds_up(small: Small, tmp_path: Path) -> None:
    first = train(small(tmp_path, "run.stop_at_step=20")).record.rows()[-1]["time"]
    record = in_pieces(small, tmp_path, [])
    times = [row["time"] for row in record.rows() if "time" in row]
    assert times == sorted(times)
    assert record.info["seconds"] >= times[-1] > first


def test_early_stopping_is_remembered(small: Small, tmp_path: Path) -> None:
    stop = "callbacks.stop={_target_: pytorch_lightning.callbacks.EarlyStopping,"
    # A loss never falls by 9 nats: the second validation, at step 14, ends the training.
    stop += " monitor: val/loss, patience: 1, min_delta: 9.0}"

    def break_(*_: object) -> None:
        raise Interrupted(15)

    whole = train(small(tmp_path / "whole", stop)).record
    assert (whole.status, whole.info["step"]) == ("finished", 14)
    with pytest.raises(Interrupted):
        train(small(tmp_path / "cut", stop), epilogue=break_)
    assert_same(train(small(tmp_path / "cut", stop)).record, whole)


def test_other_data_is_refused(small: Small, tmp_path: Path) -> None:
    config = small(tmp_path / "runs")
    text = tmp_path / "text.txt"
    text.write_text(Path(config.data.path).read_text())
    config.data.path = str(text)
    config.run.stop_at_step = 5
    record = train(config).record
    text.write_text(text.read_text().replace("a", "e"))
    with pytest.raises(RequestError, match=r"the fingerprint of the data that .* was trained on"):
        train(config)
    assert Record.read(record.path).info == record.info


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "bf16-true"])
def test_in_other_precisions(small: Small, tmp_path: Path, precision: str) -> None:
    config = [f"trainer.precision={precision}"]
    whole = train(small(tmp_path / "whole", *config)).record
    for stop in (3, 11):
        train(small(tmp_path / "cut", *config, f"run.stop_at_step={stop}"))
    assert_same(train(small(tmp_path / "cut", *config)).record, whole)
