"""Displays of runs: their values, errors, hostile and damaged records, and tables of many runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from html_reader import HOSTILE, Parsed, check_hostile

from etude import Run, Runs
from etude.records.record import Record


def fields_of(html: str) -> dict[str, str]:
    """The rows with two cells, as a dict."""
    return {row[0]: row[1] for row in Parsed(html).rows() if len(row) == 2}


def changed(folder: Path, **info: Any) -> Run:
    """The run with other values in `run.json`, without hashes."""
    content = json.loads((folder / "run.json").read_text()) | info
    content.pop("sha256", None)
    (folder / "run.json").write_text(
        json.dumps({k: v for k, v in content.items() if v is not None})
    )
    return Run(Record.read(folder))


def test_a_run_shows_what_its_files_contain(trained: Run) -> None:
    html, info = trained._repr_html_(), json.loads((trained.path / "run.json").read_text())
    shown = fields_of(html)
    assert shown["steps"] == "10 of 10"
    assert shown["parameters"] == f"{info['parameters']:,}"
    assert shown["checkpoints"] == "5, 10"
    assert shown["folder"] == str(trained.path)
    best = info["best"]
    assert shown["best"] == f"val/loss {best['value']:.4f} at step {best['step']}"
    assert shown["val/loss"] == f"{info['final']['val/loss']:.5f}"
    assert "model.dim=8" in shown["overrides"].split()
    assert Parsed(html).texts("span", "etude-good") == ["finished"]
    rows = map(json.loads, (trained.path / "metrics.jsonl").read_text().splitlines())
    losses = [row["val/loss"] for row in rows if "val/loss" in row]
    texts = Parsed(html).texts("text")
    assert {f"{min(losses):.4g}", f"{max(losses):.4g}", "val/loss", "step 5", "10"} == set(texts)


def test_a_failed_run_shows_its_error(folder: Path) -> None:
    (folder / "metrics.jsonl").unlink()
    run = changed(
        folder, status="failed", error="RuntimeError: out\nof luck", traceback="in f", final={}
    )
    parsed = Parsed(run._repr_html_())
    assert parsed.texts("span", "etude-bad") == ["failed"]
    assert parsed.texts("div", "etude-error") == ["RuntimeError: out\nof luck", "in f"]
    assert "no metrics yet" in parsed.text
    assert "svg" not in parsed.tags


def test_before_the_first_validation_the_training_loss_is_drawn(folder: Path) -> None:
    rows = [{"step": 1, "train/loss": 4.0}, {"step": 2, "train/loss": 3.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = changed(folder, status="running", final=None, best=None)
    assert "train/loss" in Parsed(run._repr_html_()).texts("text")


def test_hostile_records_are_text(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, HOSTILE: 1.0}) + "\n")
    run = changed(
        folder, name=HOSTILE, label=HOSTILE, error=HOSTILE, notes=HOSTILE, tags=[HOSTILE], final={},
        best={"metric": HOSTILE, "value": 1.0, "step": 1}, status=HOSTILE,
    )  # fmt: skip
    check_hostile(run._repr_html_())
    check_hostile(Runs([run])._repr_html_())


@pytest.mark.parametrize("damage", ["info", "metrics", "types", "link", "config", "folder"])
def test_a_damaged_record_raises_nothing(folder: Path, damage: str) -> None:
    run = Run(Record.read(folder))
    if damage == "info":
        run.record.info.clear()
    elif damage == "types":
        run = changed(folder, starts=["x"], best={"value": 1.0}, tokenizer={}, total_steps=3)
        run.record.info["step"] = "many"
    elif damage == "metrics":
        (folder / "metrics.jsonl").write_bytes(b'{"step": "a", "val/loss": [1]}\n\xff\x00\n{"st')
        run = changed(folder, final={})
    elif damage == "config":
        (folder / "config.yaml").write_text("a: &x [*x]\n")
    elif damage == "link":
        (folder / "metrics.jsonl").unlink()
        (folder / "metrics.jsonl").symlink_to("/etc/passwd")
    else:
        folder.rename(folder.parent / "moved")
    html = run._repr_html_()
    assert folder.name in Parsed(html).text
    assert "root:" not in html
    assert len(Parsed(Runs([run])._repr_html_()).rows()) == 2
    repr(run)


def test_runs_are_a_table(trained: Run) -> None:
    parsed = Parsed(Runs([trained])._repr_html_())
    head, row = parsed.rows()
    cells = dict(zip(head, row, strict=True))
    assert cells["run"] == f"tiny/{trained.path.name}"
    assert (cells["status"], cells["step"], cells["metric"]) == ("finished", "10", "val/loss")
    assert cells["best"] == f"{trained.summary['best']['value']:.5f}"


def test_a_long_table_is_cut_and_an_empty_one_says_so(trained: Run) -> None:
    parsed = Parsed(Runs([trained] * 53)._repr_html_())
    assert len(parsed.rows()) == 51
    assert "and 3 more runs" in parsed.text
    assert repr(Runs([trained] * 53)).endswith(", and 48 more)")
    assert Parsed(Runs([])._repr_html_()).texts("div", "etude-note") == ["no runs"]
    assert repr(Runs([])) == "Runs(0 runs)"
    assert "more" not in Parsed(Runs([trained] * 50)._repr_html_()).text
