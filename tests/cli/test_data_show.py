"""`etude data show`: the data of a run before training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

SAYS = {
    "masked_lm": ["[MASK]", "tokens (8, 24)", "labels (8, 24)", "documents"],
    "span_denoising": ["<extra_id_0>", "source (8,", "labels (8,"],
    "translation": ["source: ", "target: ", "targets: "],
    "instruction": ["source: ", "not included in the loss"],
    "classification": ["label: cats", "label: none", "labels (8,)"],
    "tagging": ["tags: ", "labels: ·"],
}


@pytest.mark.parametrize("kind", SAYS)
def test_every_kind_of_data(kind: str, toy: Callable, etude: Callable, tmp_path: Path) -> None:
    words = toy(kind, tmp_path / "runs")
    answer = etude("data", "show", *words, "--examples", "8")
    assert answer.code == 0, answer.err
    for text in SAYS[kind]:
        assert text in answer.out, text
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", ["translation", "classification"])
def test_packed(kind: str, toy: Callable, etude: Callable, tmp_path: Path) -> None:
    more = ["data.pack=true", "data.sequence_length=64", "model.max_length=64"]
    answer = etude("data", "show", *toy(kind, tmp_path / "runs", *more), "--examples", "8")
    assert answer.code == 0, answer.err
    assert "packed: several examples per sequence" in answer.out
    last = answer.out.rpartition("first optimizer step")[2]
    if kind == "classification":
        shown = [line for line in last.splitlines() if line.startswith("  labels:")]
        assert sum(len(line.split()[1:]) - line.count("·") for line in shown) == 8
    else:
        assert last.count("targets: ") < 8


def test_labels_lengths_and_repeated_rows(tmp_path: Path, etude: Callable) -> None:
    rows = [{"text": f"text {n}", "label": "b" if n % 4 == 0 else "a"} for n in range(80)]
    train, val = tmp_path / "train.jsonl", tmp_path / "val.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[1], {"label": "a"}]))
    val.write_text("".join(json.dumps(row) + "\n" for row in [rows[0], {**rows[1], "text": "x"}]))
    words = ["experiment=sentiment", f"data.path={train}", f"data.validation={val}"]
    answer = etude("data", "show", *words, "data.tokenizer.vocab_size=40", "--examples=1")
    assert answer.code == 0, answer.err
    table = {line.split()[0]: line.split() for line in answer.out.splitlines() if line.strip()}
    # rows, examples, tokens, longest, unknown, empty, truncated, repeated, leaked, dropped
    assert table["train"][1:3] == ["81", "80"]
    assert table["train"][6:] == ["1", "0", "1", "1", "1"]
    assert table["a"][1:3] == ["61", "(76.2%)"]
    assert table["b"][1:3] == ["19", "(23.8%)"]
    assert "tokens in a training example: median" in answer.out
    assert "█" in answer.out


def test_mistakes(etude: Callable) -> None:
    assert "expected one of show, step or find" in etude("data", "shw").err
    answer = etude("data", "show", "optimizer.lr=abc")
    assert answer.code == 2
    assert "optimizer.lr" in answer.err
