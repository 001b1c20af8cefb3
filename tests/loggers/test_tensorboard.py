"""TensorBoard's event file, also as read during the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from read_views import tensorboard, tensorboard_rows

from etude.loggers.base import RunInfo
from etude.loggers.tensorboard import TensorBoard


def row(step: int, loss: float) -> dict[str, Any]:
    return {"step": step, "time": step / 4, "train/loss": loss, "train/grad_norm": None}


def started(folder: Path, rows: list[dict[str, Any]]) -> TensorBoard:
    logger = TensorBoard()
    logger.start(RunInfo(folder, "n", "0123456789ab", "g", "", 0, config={"a": 1}), rows)
    return logger


def test_a_row_can_be_seen_at_once(tmp_path: Path) -> None:
    logger = started(tmp_path, [])
    logger.metrics(row(1, 0.5))
    assert tensorboard_rows(tmp_path) == [{"step": 1, "time": 0.25, "train/loss": 0.5}]
    logger.finish("finished")


def test_a_continued_run_replaces_what_was_seen(tmp_path: Path) -> None:
    """After steps 1 to 3 the run continues from step 2; a live reader sees each step once."""
    first = started(tmp_path, [])
    for step in (1, 2, 3):
        first.metrics(row(step, 1.0))
    first.abandon()
    following = tensorboard(tmp_path)
    assert [event.step for event in following.Scalars("train/loss")] == [1, 2, 3]

    second = started(tmp_path, [row(1, 1.0), row(2, 1.0)])
    second.metrics(row(3, 0.25))
    following.Reload()
    seen = [(event.step, event.value) for event in following.Scalars("train/loss")]
    assert seen == [(1, 1.0), (2, 1.0), (3, 0.25)]
    assert [r["step"] for r in tensorboard_rows(tmp_path)] == [1, 2, 3]
    second.finish("finished")
    assert [r["step"] for r in tensorboard_rows(tmp_path)] == [1, 2, 3]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_the_axis_of_time_is_that_of_training(tmp_path: Path) -> None:
    started(tmp_path, [row(4, 1.0), row(8, 1.0)]).finish("paused")
    one, other = tensorboard(tmp_path).Scalars("train/loss")
    assert abs((other.wall_time - one.wall_time) - 1.0) < 1e-3
