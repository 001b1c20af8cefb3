"""Runs with a curriculum, stopped, killed and continued."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apart
import pytest
from comparing import assert_same

from etude.records.record import Record
from etude.training.run import train

CHANGES = "data.curriculum={batch: {0: 2, 9: 4}, sequence_length: {0: 4, 21: 8}}"


@pytest.fixture(scope="module")
def whole(words: Callable, tmp_path_factory: pytest.TempPathFactory) -> Record:
    from etude.config.compose import compose

    return train(compose(words(tmp_path_factory.mktemp("whole"), CHANGES))).record


@pytest.mark.slow
@pytest.mark.parametrize("step", [8, 9, 23])
def test_stopped_and_continued(words: Callable, whole: Record, tmp_path: Path, step: int) -> None:
    from etude.config.compose import compose

    train(compose(words(tmp_path, CHANGES, f"run.stop_at_step={step}")))
    assert_same(train(compose(words(tmp_path, CHANGES))).record, whole)


@pytest.mark.slow
def test_killed_and_continued(words: Callable, whole: Record, tmp_path: Path) -> None:
    from etude.config.compose import compose

    asked = words(tmp_path, CHANGES)
    process = apart.start(asked, tmp_path / "output.txt", "killed_in_a_step", 24)
    assert apart.finish(process) == -signal.SIGKILL
    assert_same(train(compose(asked)).record, whole)


def test_tokens_are_counted_as_they_are_read(whole: Record) -> None:
    counted = {row["step"]: row["tokens"] for row in whole.rows()}
    assert counted[8] == 8 * 2 * 8
    assert counted[40] == (9 * 2 + 31 * 4) * 8
    assert whole.info["tokens"] == counted[40]


def test_a_change_after_the_end_is_reported(
    words: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture, etude: Any
) -> None:
    from etude.config.compose import compose

    late = "data.curriculum={batch: {0: 2, 40: 4}}"
    train(compose(words(tmp_path, late)))
    assert (
        "data.curriculum.batch changes after step 40, but the run has only 40 steps" in caplog.text
    )
    assert "changes after step" not in etude("data", "show", *words(tmp_path, late)).out
    planned = etude("plan", *words(tmp_path, late))
    assert "40 steps of up to 32" in planned.out
