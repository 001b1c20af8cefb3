"""Reports of a start: a changed source, other runs of the same name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from etude import sources
from etude.config.checks import check
from etude.records.record import Record
from etude.training import start_reports
from etude.training.run import train
from etude.training.start_reports import report_other_runs

Small = Callable[..., DictConfig]


def test_a_continued_run_says_that_the_source_differs(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "etude")
    began = sources.source_hash()
    train(small(tmp_path, "run.stop_at_step=5"))
    train(small(tmp_path, "run.stop_at_step=10"))
    assert "has changed since this run started" not in caplog.text
    monkeypatch.setattr(sources, "source_hash", lambda: "0123456789ab")
    train(small(tmp_path, "run.stop_at_step=15"))
    lines = [line for line in caplog.messages if "has changed since this run started" in line]
    assert len(lines) == 1
    assert "the source code of étude" in lines[0]
    assert f"({began[:12]}, now 0123456789ab)" in lines[0]
    caplog.clear()
    monkeypatch.undo()
    train(small(tmp_path))  # the source is again what it was
    assert "has changed since this run started" not in caplog.text
    caplog.clear()
    train(small(tmp_path))  # but a part was trained with another
    assert "already finished" in caplog.text
    assert "the source code of étude has changed" in caplog.text


def others(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if line.startswith("new run; ")]


def test_a_new_run_says_what_differs_from_the_nearest_of_its_name(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "etude")
    short = ["trainer.max_steps=1"]
    train(small(tmp_path, *short))
    train(small(tmp_path, *short, "seed=1"))  # only another seed
    train(small(tmp_path, *short, "run.notes=other"))  # the same run
    assert not others(caplog)
    near = train(small(tmp_path, *short, "model.dropout=0.1")).record.path.name
    (line,) = others(caplog)
    assert "2 other runs have the same name" in line
    assert line.endswith(": model.dropout 0.2 -> 0.1")
    caplog.clear()
    train(small(tmp_path, *short, "model.dropout=0.1", "optimizer.lr=0.5"))
    (line,) = others(caplog)
    assert "3 other runs have the same name" in line
    assert f"Differences from the most similar one, {near}: optimizer.lr" in line
    assert line.endswith("-> 0.5")


def planted(root: Path, count: int, config: dict[str, Any]) -> None:
    for number in range(count):
        folder = root / "tiny" / f"{number:012x}"
        folder.mkdir(parents=True)
        info = {"format": 1, "status": "finished", "config": config}
        (folder / "run.json").write_text(json.dumps(info))


def test_the_cost_has_a_bound(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "etude")
    monkeypatch.setattr(start_reports, "MAX_LISTED", 50)
    planted(tmp_path, 120, {"model.dim": 4, "name": "\x1b[31m"})
    read: list[Path] = []
    real = Record.read

    def counted(path: Path) -> Record:
        read.append(path)
        return real(path)

    monkeypatch.setattr(Record, "read", counted)
    report_other_runs(tmp_path / "tiny" / "ffffffffffff", check(small(tmp_path)))
    assert len(read) == start_reports.MAX_READ
    (line,) = others(caplog)
    assert "50 or more other runs" in line
    assert "more" in line
    assert "\x1b" not in line


def test_damaged_runs_of_the_name_are_passed_over(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "etude")
    folder = tmp_path / "tiny"
    for number, text in enumerate(["{", "[]", '{"format": 1, "config": [1]}', None]):
        (folder / f"{number:012x}").mkdir(parents=True)
        if text is not None:
            (folder / f"{number:012x}" / "run.json").write_text(text)
    (folder / "a file").write_text("")
    os.symlink("nowhere", folder / "dangling")
    report_other_runs(folder / "ffffffffffff", check(small(tmp_path)))
    assert not others(caplog)


@pytest.mark.slow
def test_a_sweep_says_it_once(
    words: Callable[..., list[str]], etude: Callable[..., Any], tmp_path: Path
) -> None:
    short = [*words(tmp_path), "trainer.max_steps=1"]
    assert etude("train", *short, "model.dropout=0.3").code == 0
    answer = etude("train", *short, "model.dropout=0.1,0.15,0.25", "-m")
    assert answer.code == 0, answer.err
    assert answer.out.count("new run; ") == 1


@pytest.mark.slow
def test_thousands_of_runs_cost_little(small: Small, tmp_path: Path) -> None:
    planted(tmp_path, 5000, {"model.dim": 4})
    checked = check(small(tmp_path))
    began = time.process_time()
    report_other_runs(tmp_path / "tiny" / "ffffffffffff", checked)
    assert time.process_time() - began < 0.5
