"""A sound record is found sound wherever it lies; each kind of damage is told by its file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.records.lock import RunLock

Etude = Callable[..., Any]


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    etude: Etude,
    tiny: Callable[..., list[str]],
    write_corpus: Callable[..., Path],
) -> Path:
    """The record of a real run."""
    folder = tmp_path_factory.mktemp("verify")
    text = write_corpus(folder / "text.txt", lines=60)
    answer = etude("train", *tiny(text, folder / "runs", "run.samples=0"))
    assert answer.code == 0, answer.err
    return next((folder / "runs" / "tiny").iterdir())


@pytest.fixture
def record(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, moved and renamed."""
    return Path(shutil.copytree(finished, tmp_path / "elsewhere" / "my best run"))


def test_a_sound_record_is_ok(etude: Etude, finished: Path) -> None:
    answer = etude("runs", "verify", "--root", finished.parent.parent)
    assert (answer.code, answer.out) == (0, f"[1/1] tiny/{finished.name}  ok\n")


def test_a_moved_and_renamed_one_too(etude: Etude, record: Path) -> None:
    answer = etude("runs", "verify", record)
    assert (answer.code, answer.out) == (0, "[1/1] elsewhere/my best run  ok\n")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def last(record: Path) -> Path:
    return sorted((record / "checkpoints").iterdir())[-1]


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights": (lambda r: flip(last(r) / "model.safetensors"), "model.safetensors"),
    "state": (lambda r: flip(last(r) / "state.pt"), "state.pt"),
    "no weights": (lambda r: os.remove(last(r) / "model.safetensors"), "no such file"),
    "no manifest": (lambda r: os.remove(last(r) / "MANIFEST.json"), "no MANIFEST.json"),
    "no checkpoints": (lambda r: shutil.rmtree(r / "checkpoints"), "the best checkpoint is gone"),
    "tokenizer": (lambda r: edit(r / "tokenizer.json", '"t"', '"T"'), "tokenizer.json"),
    "no tokenizer": (lambda r: os.remove(r / "tokenizer.json"), "tokenizer.json"),
    "config": (
        lambda r: edit(r / "config.yaml", "lr: 0.001", "lr: 0.002"),
        "config.yaml gives the signature",
    ),
    "seed": (lambda r: edit(r / "config.yaml", "seed: 1337", "seed: 1"), "has seed 1"),
    "no yaml": (lambda r: edit(r / "config.yaml", "model:", "model: ["), "config.yaml"),
    "run.json": (lambda r: edit(r / "run.json", '"signature": "', '"signature": "0'), "signature"),
    "cut run.json": (lambda r: os.truncate(r / "run.json", 40), "run.json"),
    "steps": (
        lambda r: edit(r / "metrics.jsonl", '"step": 10', '"step": 5'),
        "metrics.jsonl, line 2: step 5 after step 5",
    ),
    "no row": (lambda r: edit(r / "metrics.jsonl", '{"step": 5', '"step": 5'), "line 1: no row"),
    "cut metrics": (
        lambda r: os.truncate(r / "metrics.jsonl", (r / "metrics.jsonl").stat().st_size - 9),
        "line 2: cut short",
    ),
    "forged metrics": (
        lambda r: edit(r / "metrics.jsonl", '"tokens": ', '"tokens": 1'),
        "metrics.jsonl is",
    ),
    "forged result": (
        lambda r: edit(r / "run.json", '"val/loss": ', '"val/loss": 1'),
        "final",
    ),
    "no run.json": (lambda r: os.remove(r / "run.json"), "run.json"),
    "no metrics": (lambda r: os.remove(r / "metrics.jsonl"), "metrics.jsonl: No such file"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_by_its_file(etude: Etude, record: Path, kind: str) -> None:
    damage, said = DAMAGE[kind]
    damage(record)
    answer = etude("runs", "verify", record)
    assert answer.code == 1, answer.out
    assert said in answer.out.splitlines()[0]
    assert answer.out.splitlines()[-1] == "1 of 1 damaged"
    assert str(record) not in answer.out  # one readable line, from the record's folder on


def test_one_damaged_record_hides_no_other(etude: Etude, finished: Path, record: Path) -> None:
    root = record.parent.parent
    shutil.copytree(finished, root / "tiny" / finished.name)
    (record / "run.json").write_text("{")
    answer = etude("runs", "verify", "--root", root)
    assert answer.code == 1
    assert answer.out.splitlines()[1] == f"[2/2] tiny/{finished.name}  ok"


def test_a_run_in_progress_is_left_alone(etude: Etude, record: Path) -> None:
    (record / "metrics.jsonl").write_text('{"step":')
    lock = RunLock(record)
    lock.acquire()
    try:
        answer = etude("runs", "verify", record)
    finally:
        lock.release()
    assert (answer.code, "a process is training it" in answer.out) == (0, True)


def test_foreign_code_is_not_imported_to_verify(etude: Etude, record: Path) -> None:
    edit(record / "config.yaml", "extensions: []", "extensions: [their_parts]")
    answer = etude("runs", "verify", record)
    assert (answer.code, "--trust their_parts" in answer.out) == (0, True)


def test_nothing_to_verify(etude: Etude, tmp_path: Path) -> None:
    assert etude("runs", "verify", "--root", tmp_path).code == 0
    assert etude("runs", "verify", "--root", tmp_path / "nowhere").code == 2
    assert etude("runs", "verify", "none", "--root", tmp_path).code == 2


# -- a record of another machine --------------------------------------------------------------


def test_a_moved_record_answers_as_before(etude: Etude, finished: Path, record: Path) -> None:
    words = ("--max-new-tokens", "9", "--seed", "1")
    assert etude("generate", record, *words).out == etude("generate", finished, *words).out
    shown = etude("runs", "show", record)
    assert shown.code == 0
    assert str(record / "checkpoints") in shown.out


def test_what_only_its_first_machine_had_is_not_needed(
    etude: Etude, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    reference = "${oc.env:NOT_SET_HERE}"
    edit(record / "config.yaml", "notes: ''", f"notes: {reference}")
    edit(record / "config.yaml", "vars: {}", f"vars:\n  x: {reference}")
    edit(record / "config.yaml", "accelerator: cpu", f"accelerator: {reference}")
    edit(record / "config.yaml", "stop_at_step: null", f"stop_at_step: {reference}")
    assert etude("generate", record, "--max-new-tokens", "3").code == 0
    assert etude("runs", "verify", record).out.endswith("  ok\n")


def test_a_moved_root_goes_on_with_its_runs(
    etude: Etude,
    tiny: Callable[..., list[str]],
    write_corpus: Callable[..., Path],
    tmp_path: Path,
) -> None:
    text = write_corpus(tmp_path / "text.txt", lines=60)
    words = tiny(text, tmp_path / "there", "run.samples=0")
    assert etude("train", *words).code == 0
    whole = next((tmp_path / "there" / "tiny").iterdir())
    words[words.index(f"run.root={tmp_path / 'there'}")] = f"run.root={tmp_path / 'here'}"
    assert etude("train", *words, "run.stop_at_step=5").code == 0
    (tmp_path / "here").rename(tmp_path / "moved")
    words[words.index(f"run.root={tmp_path / 'here'}")] = f"run.root={tmp_path / 'moved'}"
    answer = etude("train", *words)
    assert answer.code == 0
    assert "continues from step 5 of 10" in answer.out
    moved = tmp_path / "moved" / "tiny" / whole.name
    weights = "checkpoints/step-00000010/model.safetensors"
    assert (moved / weights).read_bytes() == (whole / weights).read_bytes()
    steps = [json.loads(line)["step"] for line in (moved / "metrics.jsonl").open()]
    assert steps == [5, 10]
    assert not (tmp_path / "here").exists()
    assert etude("runs", "verify", "--root", tmp_path / "moved").code == 0
