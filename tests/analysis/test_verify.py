"""Tests that a valid record passes wherever it is, and that each damage is reported by file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude import load_run
from etude.interpret import weight_norms
from etude.records.lock import RunLock
from etude.records.opening import MANIFEST
from etude.records.sealed import write_sealed
from older_records import as_older, with_hashes_that_fit
from quick_first import quick_first

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
    record = next((folder / "runs" / "tiny").iterdir())
    load_run(record).over_steps(weight_norms)
    return record


def measures(record: Path) -> Path:
    (file,) = (record / "measures").glob("*.json")
    return file


@pytest.fixture
def record(finished: Path, tmp_path: Path) -> Path:
    """A copy of the record, moved and renamed."""
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


def another_checkpoint(record: Path) -> None:
    """Replaces the last checkpoint by the previous one: valid in itself, but of another step."""
    before, after = sorted((record / "checkpoints").iterdir())[-2:]
    shutil.rmtree(after)
    shutil.copytree(before, after)
    content = json.loads((after / "MANIFEST.json").read_text())
    del content["seal"]
    write_sealed(after / "MANIFEST.json", {**content, "step": 10}, MANIFEST)


def drop_row(record: Path, step: int) -> None:
    """Deletes a row of the metrics and their hash, as in records of older versions."""
    rows = (record / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [row for row in rows if json.loads(row)["step"] != step]
    (record / "metrics.jsonl").write_text("".join(kept))
    as_older(record)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights": (lambda r: flip(last(r) / "model.safetensors"), "model.safetensors"),
    "state": (lambda r: flip(last(r) / "state.pt"), "state.pt"),
    "no weights": (lambda r: os.remove(last(r) / "model.safetensors"), "no such file"),
    "no manifest": (lambda r: os.remove(last(r) / "MANIFEST.json"), "MANIFEST.json is missing"),
    "no checkpoints": (
        lambda r: shutil.rmtree(r / "checkpoints"),
        "the best checkpoint is missing",
    ),
    "tokenizer": (lambda r: edit(r / "tokenizer.json", '"t"', '"T"'), "tokenizer.json"),
    "no tokenizer": (lambda r: os.remove(r / "tokenizer.json"), "tokenizer.json"),
    "config": (
        lambda r: edit(r / "config.yaml", "lr: 0.001", "lr: 0.002"),
        "the signature of config.yaml is ",
    ),
    "seed": (
        lambda r: edit(r / "config.yaml", "seed: 1337", "seed: 1"),
        "the seed in config.yaml is 1,",
    ),
    "no yaml": (lambda r: edit(r / "config.yaml", "model:", "model: ["), "config.yaml"),
    "run.json": (lambda r: edit(r / "run.json", '"signature": "', '"signature": "0'), "signature"),
    "cut run.json": (lambda r: os.truncate(r / "run.json", 40), "run.json"),
    "format of a manifest": (
        lambda r: edit(last(r) / "MANIFEST.json", '"format": 1', '"format": 2'),
        "MANIFEST.json",
    ),
    "step of a manifest": (
        lambda r: edit(last(r) / "MANIFEST.json", '"step": 10', '"step": 9'),
        "MANIFEST.json",
    ),
    "another checkpoint": (another_checkpoint, "step-00000010/MANIFEST.json was changed"),
    "a missing row": (lambda r: drop_row(r, 5), "the row of step 5 is missing"),
    "no last row": (lambda r: drop_row(r, 10), "the row of step 10 is missing"),
    "overrides": (
        lambda r: edit(r / "overrides.yaml", "layers=1", "layers=2"),
        "overrides.yaml was changed",
    ),
    "no overrides": (lambda r: os.remove(r / "overrides.yaml"), "overrides.yaml: No such file"),
    "a key that no check reads": (
        lambda r: edit(r / "config.yaml", "notes: ''", "notes: mine"),
        "config.yaml was changed",
    ),
    "a file's hash": (
        lambda r: edit(r / "run.json", '"config.yaml": "', '"config.yaml": "0'),
        "field sha256",
    ),
    "steps": (
        lambda r: edit(r / "metrics.jsonl", '"step": 10', '"step": 5'),
        "metrics.jsonl, line 2: step 5 follows step 5",
    ),
    "no row": (
        lambda r: edit(r / "metrics.jsonl", '{"step": 5', '"step": 5'),
        "line 1: expected a JSON object with a step number",
    ),
    "cut metrics": (
        lambda r: os.truncate(r / "metrics.jsonl", (r / "metrics.jsonl").stat().st_size - 9),
        "line 2: the line is truncated",
    ),
    "forged metrics": (
        lambda r: edit(r / "metrics.jsonl", '"tokens": ', '"tokens": 1'),
        "metrics.jsonl was changed",
    ),
    "forged result": (
        lambda r: edit(r / "run.json", '"val/loss": ', '"val/loss": 1'),
        "final",
    ),
    "a measure": (
        lambda r: edit(measures(r), '"levels"', '"level"'),
        "measures/weight_norms-",
    ),
    "a cut measure": (lambda r: os.truncate(measures(r), 40), "measures/weight_norms-"),
    "a file of measures": (
        lambda r: (shutil.rmtree(r / "measures"), (r / "measures").write_text("")),
        "measures",
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
    assert answer.out.splitlines()[-1] == "1 of 1 run is damaged"
    assert str(record) not in answer.out  # one readable line, from the record's folder on


FIELDS = ["name", "label", "status", "seed", "parameters", "total_steps", "step", "tokens", "data"]
FIELDS += ["tokenizer", "starts", "final", "best", "seconds", "choices", "config"]


@pytest.mark.parametrize("field", quick_first(FIELDS, 4))
def test_a_changed_field_of_run_json_is_named(etude: Etude, record: Path, field: str) -> None:
    info = json.loads((record / "run.json").read_text())
    changes: dict[type, Any] = {str: "finished by hand", int: 7, float: 7.5, list: [{}]}
    value = info[field]
    info[field] = {**value, "x": 1} if isinstance(value, dict) else changes[type(value)]
    (record / "run.json").write_text(json.dumps(info))
    answer = etude("runs", "verify", record)
    assert answer.code == 1
    assert f"run.json: field {field} was changed after training" in answer.out
    before = (record / "run.json").read_bytes()
    answer = etude("runs", "verify", record, "--accept")
    assert answer.code == 2
    assert field in answer.err
    assert (record / "run.json").read_bytes() == before


@pytest.mark.parametrize("field", ["tags", "notes"])
def test_a_changed_field_for_people_is_no_damage(etude: Etude, record: Path, field: str) -> None:
    info = json.loads((record / "run.json").read_text())
    info[field] = [*info[field], "x"] if field == "tags" else "x"
    (record / "run.json").write_text(json.dumps(info))
    answer = etude("runs", "verify", record)
    assert answer.code == 0
    assert (
        f"  ok (run.json: {field} was edited after training (to accept the edit, run `etude runs "
        in answer.out
    )


@pytest.mark.parametrize("change", [{"mine": 1}, {"finished": None}])
def test_a_field_that_came_or_went_is_named(etude: Etude, record: Path, change: dict) -> None:
    info = json.loads((record / "run.json").read_text()) | change
    info = {key: value for key, value in info.items() if value is not None or key == "best"}
    (record / "run.json").write_text(json.dumps(info))
    answer = etude("runs", "verify", record)
    assert (answer.code, f"field {next(iter(change))}" in answer.out) == (1, True)


def test_other_spacing_and_order_of_run_json_is_no_change(etude: Etude, record: Path) -> None:
    info = json.loads((record / "run.json").read_text())
    (record / "run.json").write_text(json.dumps(info, sort_keys=True))
    assert etude("runs", "verify", record).code == 0


def test_a_record_of_an_older_version_is_not_hashed(etude: Etude, record: Path) -> None:
    for patch in record.glob("source*.patch"):
        patch.unlink()
    info = json.loads((record / "run.json").read_text())
    for start in info["starts"]:
        start.pop("patches", None)
    (record / "run.json").write_text(json.dumps(info))
    as_older(record)
    answer = etude("runs", "verify", record)
    note = "(saved by an older version, without hashes of run.json and config.yaml)"
    assert (answer.code, answer.out) == (0, f"[1/1] elsewhere/my best run  ok {note}\n")
    assert etude("generate", record, "--max-new-tokens", "3").code == 0


def test_what_was_changed_by_hand_is_accepted_on_request(etude: Etude, record: Path) -> None:
    edit(record / "run.json", '"notes": ""', '"notes": "the good one"')
    edit(record / "config.yaml", "notes: ''", "notes: the good one")
    assert etude("runs", "verify", record).code == 1
    assert etude("runs", "verify", "--accept", "--root", record.parent).code == 2
    answer = etude("runs", "verify", record, "--accept")
    assert answer.code == 0, answer.out
    assert "accepted the edits of run.json: notes, config.yaml\n" in answer.out
    assert "  ok (edit accepted on 20" in answer.out
    assert etude("generate", record, "--max-new-tokens", "3").code == 0
    assert "no edits to accept" in etude("runs", "verify", record, "--accept").out
    edit(record / "config.yaml", "notes: the good one", "notes: the best one")
    assert etude("runs", "verify", record).code == 1  # a later change is reported again


def test_metrics_and_weights_are_not_accepted(etude: Etude, record: Path) -> None:
    flip(last(record) / "model.safetensors")
    edit(record / "metrics.jsonl", '"tokens": ', '"tokens": 1')
    answer = etude("runs", "verify", record, "--accept")
    assert answer.code == 1
    assert "no edits to accept" in answer.out
    for fault in ("model.safetensors", "metrics.jsonl was changed"):
        assert fault in answer.out


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("tokenizer.json", '"t"', '"T"', "the fingerprint of tokenizer.json is "),
        ("config.yaml", "heads: 1", "heads: 2", "the signature of config.yaml is "),
        ("config.yaml", "seed: 1337", "seed: 1338", "the signature of config.yaml is "),
        ("config.yaml", "etude.nn.norm.LayerNorm", "os.system", "os.system"),
        ("config.yaml", "extensions: []", "extensions: [theirs]", "--trust theirs"),
    ],
)
def test_an_edit_that_makes_another_run_is_not_accepted(
    etude: Etude, record: Path, file: str, old: str, new: str, said: str
) -> None:
    edit(record / file, old, new)
    before = (record / "run.json").read_bytes()
    answer = etude("runs", "verify", record, "--accept")
    assert answer.code == 2
    assert "expected only edits that no result depends on" in answer.err
    assert said in answer.err
    assert (record / "run.json").read_bytes() == before


def test_the_best_value_is_compared_with_the_metrics(etude: Etude, record: Path) -> None:
    info = json.loads((record / "run.json").read_text())
    info["best"]["value"] /= 2
    (record / "run.json").write_text(json.dumps(info))
    with_hashes_that_fit(record)
    answer = etude("runs", "verify", record)
    assert answer.code == 1
    assert f"best value: run.json has {info['best']['value']}, but metrics.jsonl " in answer.out


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
    assert (answer.code, "a process is training this run" in answer.out) == (0, True)


def test_foreign_code_is_not_imported_to_verify(etude: Etude, record: Path) -> None:
    edit(record / "config.yaml", "extensions: []", "extensions: [their_parts]")
    with_hashes_that_fit(record)
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
    assert etude("runs", "verify", record, "--accept").code == 0
    assert etude("generate", record, "--max-new-tokens", "3").code == 0
    assert "  ok (edit accepted on " in etude("runs", "verify", record).out


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


@pytest.mark.parametrize("name", ["source\0.patch", "source\ud800.patch"])
def test_a_record_that_names_impossible_files_hides_no_other(
    etude: Etude, finished: Path, record: Path, name: str
) -> None:
    root = record.parent.parent
    shutil.copytree(finished, root / "tiny" / finished.name)
    info = json.loads((record / "run.json").read_text())
    info["starts"][0]["patches"] = [{"file": name, "sha256": "0"}]
    (record / "run.json").write_text(json.dumps(info))
    answer = etude("runs", "verify", "--root", root)
    assert answer.code == 1
    assert answer.out.splitlines()[1] == f"[2/2] tiny/{finished.name}  ok"


def test_other_overrides_are_not_accepted(etude: Etude, record: Path) -> None:
    (record / "overrides.yaml").write_text("{a: 1}\n")
    answer = etude("runs", "verify", record, "--accept")
    assert answer.code == 2
    assert (
        "overrides.yaml: expected the overrides with which the run was first started" in answer.err
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("best", {"value": "x"}), ("final", {"val/loss": [1]}), ("seconds", 10**400)],
)
def test_results_that_are_no_numbers_are_damage(
    etude: Etude, record: Path, field: str, value: object
) -> None:
    info = json.loads((record / "run.json").read_text())
    (record / "run.json").write_text(json.dumps(info | {field: value}))
    for words in (["runs", "show", record], ["runs", "verify", record]):
        answer = etude(*words)
        assert answer.code != 0
        assert "run.json" in answer.out + answer.err
        assert "please report" not in answer.err
