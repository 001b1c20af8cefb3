"""Tests of finding runs, and of the values of a record."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from etude.errors import RequestError
from etude.records.lock import RunLock
from etude.records.record import FORMAT, STATUSES, Record, build_label, run_folder
from etude.records.registry import find_finished, find_record, read_records, record_folders


def make(root: Path, place: str, **info: Any) -> Path:
    folder = root / place
    folder.mkdir(parents=True)
    facts = {"format": FORMAT, "status": "finished", "finished": "2026-01-01"} | info
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path, "nano/aaaa00000000", finished="2026-01-03")
    make(tmp_path, "nano/aaaa11111111", finished="2026-01-02")
    make(tmp_path, "nano/cccc00000000", status="failed", finished="2026-01-09")
    make(tmp_path, "nano/cccc00000000~2", finished="2026-01-01")
    make(tmp_path, "broken/dddd00000000", status="failed")
    make(tmp_path, "_sweeps/eeee00000000")
    make(tmp_path, "nano/.ffff00000000.tmp-1-old")
    make(tmp_path, "newer/999900000000", format=FORMAT + 1)
    (tmp_path / "nano" / "half").mkdir()
    (tmp_path / "nano" / "half" / "run.json").write_text('{"format"')
    return tmp_path


def test_scan_is_sorted_and_passes_over_what_is_no_run(root: Path) -> None:
    assert [str(record.path.relative_to(root)) for record in read_records(root)] == [
        "broken/dddd00000000",
        "nano/aaaa00000000",
        "nano/aaaa11111111",
        "nano/cccc00000000",
        "nano/cccc00000000~2",
    ]


def test_scan_of_a_name_and_of_one_run(root: Path) -> None:
    assert len(list(read_records(root / "nano"))) == 4
    assert [record.path for record in read_records(root / "nano/aaaa00000000")] == [
        root / "nano/aaaa00000000"
    ]


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("aaaa0", "nano/aaaa00000000"),
        ("aaaa11111111", "nano/aaaa11111111"),
        ("nano", "nano/aaaa00000000"),  # finished last
        ("cccc00000000", "nano/cccc00000000"),  # a whole signature comes before its ~2
        ("cccc00000000~2", "nano/cccc00000000~2"),
        ("dddd", "broken/dddd00000000"),
        ("nano/aaaa0", "nano/aaaa00000000"),  # as in `etude runs list`, complete or not
        ("nano/cccc00000000~2", "nano/cccc00000000~2"),
    ],
)
def test_find(root: Path, run: str, expected: str) -> None:
    assert find_record(run, root).path == root / expected


def test_find_by_path_needs_no_root(root: Path, tmp_path: Path) -> None:
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    (root / "nano/aaaa00000000").rename(moved)
    assert find_record(str(moved), tmp_path / "nowhere").path == moved


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("aaaa", "matching runs: nano/aaaa00000000, nano/aaaa11111111"),
        ("nanno", "did you mean nano?"),
        ("broken", "the runs with this name: dddd00000000 failed"),
        ("eeee00000000", "expected a run's path, its name, or the first characters"),
        ("_sweeps", "expected a run's path, its name, or the first characters"),
        ("ffff", "expected a run's path, its name, or the first characters"),
        ("broken/aaaa0", "expected a run's path, its name, or the first characters"),
        ("9999", "written by a newer version of Étude"),
        ("newer", "written by a newer version of Étude"),
    ],
)
def test_find_refuses(root: Path, run: str, said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said)):
        find_record(run, root)


@pytest.mark.parametrize("path", ["checkpoints", "checkpoints/last", "metrics.jsonl"])
def test_a_path_in_a_run(root: Path, path: str) -> None:
    run = root / "nano/aaaa00000000"
    hint = f"to choose a checkpoint of a run, use {run} with which=STEP"
    with pytest.raises(RequestError, match=re.escape(hint)):
        find_record(str(run / path), root)


def test_damaged_records_are_collected(root: Path) -> None:
    damaged: list[RequestError] = []
    assert len(list(read_records(root, damaged))) == 5
    assert [error.problems[0].where.partition("/run.json")[0] for error in damaged] == [
        str(root / "nano" / "half"),
        str(root / "newer" / "999900000000"),
    ]
    assert len(list(record_folders(root))) == 7


def test_finished_runs_of_names_prefixes_and_paths(root: Path) -> None:
    words = ["nano", "aaaa0", "dddd", str(root / "nano/aaaa11111111")]
    found = [record.path.name for record in find_finished(words, root)]
    assert found == ["aaaa00000000", "aaaa11111111", "cccc00000000~2", "dddd00000000"]
    with pytest.raises(RequestError, match="a name with at least one finished run"):
        find_finished(["broken"], root)


def test_a_run_in_progress_is_at_its_latest_row(tmp_path: Path) -> None:
    folder = make(tmp_path, "nano/aaaa00000000", status="running", step=5)
    (folder / "metrics.jsonl").write_text('{"step": 7, "val/loss": 2.5}\n{"step": 9}\n{"st')
    record = Record.read(folder)
    assert (record.step, record.latest["val/loss"]) == (5, 2.5)
    lock = RunLock(folder)
    lock.acquire()
    assert record.step == 9
    lock.release()


def test_an_older_record_has_its_config_from_its_file(tmp_path: Path) -> None:
    folder = make(tmp_path, "nano/aaaa00000000")
    assert Record.read(folder).config == {}
    (folder / "config.yaml").write_text(
        "model: {dim: 8, length: '${data.length}', x: '${x.y}'}\n"
        "data: {length: 4}\nrun: {root: a}\n"
    )
    expected = {"model.dim": 8, "model.length": 4, "model.x": "${x.y}", "data.length": 4}
    assert Record.read(folder).config == expected
    for text in ("a: &a [1]\nb: *a\n", "a: [", "- 1", "a: !!python/name:os.system x"):
        (folder / "config.yaml").write_text(text)
        assert Record.read(folder).config == {}


def test_a_name_of_hex_digits_is_a_name_too(tmp_path: Path) -> None:
    make(tmp_path, "beef/aaaa00000000")
    assert find_record("beef", tmp_path).path.name == "aaaa00000000"


# -- the record -------------------------------------------------------------------------------


def test_a_running_run_whose_process_is_gone_was_interrupted(tmp_path: Path) -> None:
    folder = make(tmp_path, "nano/aaaa00000000", status="running")
    assert Record.read(folder).status == "interrupted"
    lock = RunLock(folder)
    lock.acquire()
    assert Record.read(folder).status == "running"
    lock.release()
    assert Record.read(folder).status == "interrupted"


@pytest.mark.parametrize("status", [s for s in STATUSES if s != "running"])
def test_every_other_status_stands_as_written(tmp_path: Path, status: str) -> None:
    assert Record.read(make(tmp_path, "nano/aaaa00000000", status=status)).status == status


def test_a_record_of_a_later_format_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path, "nano/aaaa00000000", format=FORMAT + 1)
    with pytest.raises(RequestError, match="written by a newer version of Étude"):
        Record.read(folder)


@pytest.mark.parametrize("content", ["[]", "7", "null", '"text"'])
def test_a_record_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RequestError, match="format"):
        Record.read(tmp_path)


def test_update_changes_what_it_names(tmp_path: Path) -> None:
    record = Record.read(make(tmp_path, "nano/aaaa00000000", seed=3))
    record.update(status="failed", error="é")
    again = Record.read(record.path).info
    assert (again["seed"], again["status"], again["error"]) == (3, "failed", "é")


def checkpointed(root: Path, *steps: int, best: int | None = None) -> Record:
    info = {"best": {"step": best}} if best else {}
    record = Record.read(make(root, "nano/aaaa00000000", **info))
    for step in steps:
        folder = record.path / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "MANIFEST.json").write_text("{}")
    (record.path / "checkpoints" / "step-00000099").mkdir(parents=True)  # without a manifest
    return record


@pytest.mark.parametrize(
    ("which", "best", "step"),
    [("best", 10, 10), ("best", None, 30), ("last", 10, 30), ("20", 10, 20)],
)
def test_checkpoints(tmp_path: Path, which: str, best: int | None, step: int) -> None:
    record = checkpointed(tmp_path, 30, 10, 20, best=best)
    assert [found for found, _ in record.checkpoints()] == [10, 20, 30]
    assert record.checkpoint(which).name == f"step-{step:08d}"


@pytest.mark.parametrize("which", ["99", "best", "lst", "11"])
def test_a_checkpoint_that_is_not_there(tmp_path: Path, which: str) -> None:
    record = checkpointed(tmp_path, 10, 20, best=15)
    with pytest.raises(RequestError, match="available steps: 10, 20"):
        record.checkpoint(which)


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="expected a run with at least one checkpoint"):
        checkpointed(tmp_path).checkpoint("last")


def test_run_folder_is_named_by_twelve_digits(tmp_path: Path) -> None:
    assert run_folder(tmp_path, "nano", "0123456789abcdef" * 4) == tmp_path / "nano/0123456789ab"


@pytest.mark.parametrize(
    ("typed", "label"),
    [
        ([], ""),
        (["experiment=debug"], ""),
        (["experiment=debug", "model/position=rotary", "seed=1"], "position=rotary seed=1"),
        (["optimizer.lr=1e-3"], "lr=1e-3"),
        (["+callbacks.stop.patience=2"], "patience=2"),
        (["++model.bias=true"], "bias=true"),
        (["run.root=x", "name=y", "hydra.verbose=true", "extensions=[a]"], ""),
        (
            ["model.dim=8", "other.dim=9"],
            "model.dim=8 other.dim=9",
        ),  # distinguished by the whole key
        (["seed=1", "seed=2"], "seed=2"),  # the last counts
        (["data.path=a=b.txt"], "path=a=b.txt"),
        (["logger=[tensorboard,wandb]", "logger.wandb.project=x"], ""),
        (["data.path=https://me:hunter2@host/x"], "path=https://me:***@host/x"),
        (["vars.x=${oc.env:SECRET}"], "x=${oc.env:SECRET}"),
        (
            [r"vars.x=$\{oc.env\:SECRET\}", r"data.path=https\://h/x"],
            "x=${oc.env:SECRET} path=https://h/x",
        ),
    ],
)
def test_label(typed: list[str], label: str) -> None:
    assert build_label(typed) == label
