"""Token regression, compared with scipy and the module alone, also for sentences in pieces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from etude.api import load_run

VOCABULARY = ["a", "to", "the", "that", "where", "little", "between", "somebody", "wonderful"]


def rows(file: Path) -> list[dict[str, Any]]:
    """Returns rows with the length of each word, except every fifth."""
    found = []
    for number in range(60):
        words = [VOCABULARY[(number * 7 + n * n) % 9] for n in range(2 + number % 9)]
        values = [None if n % 5 == 4 else len(word) / 5 for n, word in enumerate(words)]
        found.append({"words": words, "values": values})
    file.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return found


def words_of(tmp_path: Path, *more: str) -> list[str]:
    return [
        "~experiment", "name=words", "data=scored_words", "data/tokenizer=char",
        f"data.path={tmp_path / 'rows.jsonl'}", "data.sequence_length=20", "data.validation=0.25",
        "data.batch.examples=8", "task=token_regression", "model=encoder_nano",
        "model/head=tagging", "model.dim=16", "model.layers=1", "model.heads=2",
        "trainer.max_steps=6", "trainer.val_check_interval=6", "schedule.warmup_steps=0",
        f"run.root={tmp_path / 'runs'}", f"run.cache={tmp_path / 'cache'}", *more,
    ]  # fmt: skip


def by_hand(run: Any, row: dict[str, Any]) -> list[float]:
    """Returns the module's predictions at the first token of each word, piece by piece."""
    data, tokenizer = run.data(), run.tokenizer()
    backend = tokenizer.backend
    backend.enable_truncation(data.sequence_length)
    encoding = backend.encode([w if n == 0 else f" {w}" for n, w in enumerate(row["words"])],
                              is_pretokenized=True)  # fmt: skip
    found, done = [], -1
    for piece in [encoding, *encoding.overflowing]:
        with torch.no_grad():
            predicted = run.model().module(torch.tensor([piece.ids]))[0, :, 0].tolist()
        for index, word in enumerate(piece.word_ids):
            if word is not None and word > done:
                found.append(predicted[index])
                done = word
    return found


def test_words_of_whole_rows(etude: Callable[..., Any], tmp_path: Path) -> None:
    written = rows(tmp_path / "rows.jsonl")
    answer = etude("train", *words_of(tmp_path))
    assert answer.code == 0, answer.err
    assert "additional examples from long rows)" in answer.out  # several pieces
    (path,) = (tmp_path / "runs" / "words").iterdir()
    run = load_run(path)
    held = [row for n, row in enumerate(written) if int((n + 1) * 0.25) > int(n * 0.25)]
    actual, found, scores = [], [], []
    for row in held:
        pairs = [
            (value, predicted)
            for value, predicted in zip(row["values"], by_hand(run, row), strict=True)
            if value is not None
        ]
        actual += [value for value, _ in pairs]
        found += [predicted for _, predicted in pairs]
        scores.append(-np.mean([(value - predicted) ** 2 for value, predicted in pairs]))
    metrics = run.evaluate("val")
    assert metrics["loss"] == pytest.approx(np.square(np.subtract(actual, found)).mean(), rel=1e-4)
    pearson = scipy.stats.pearsonr(actual, found).statistic
    assert metrics["pearson"] == pytest.approx(pearson, abs=1e-5)
    last = run.metrics.iloc[-1]
    for name, value in metrics.items():
        assert last[f"val/{name}"] == pytest.approx(value, rel=1e-6)
    assert run.scores("val") == pytest.approx(scores, rel=1e-3)
    (told,) = run.predict([["the", "wonderful"]])
    expected = by_hand(run, {"words": ["the", "wonderful"]})
    assert told["values"] == pytest.approx(expected, rel=1e-4)
    answer = etude("predict", path, "--text", "the wonderful")
    assert answer.out.startswith(f"the/{expected[0]:.3f} wonderful/")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"words": ["a"], "values": [1, 2]}, "column values"),
        ({"words": ["a"], "values": ["1"]}, "column values, number 1 = '1': expected a finite"),
        ({"words": ["a"], "values": [True]}, "column values, number 1 = True: expected a finite"),
        ({"words": "a", "values": [1]}, "column words = 'a': expected a list of words"),
        ({"words": ["a", ""], "values": [1, 2]}, "column words"),
    ],
)
def test_what_does_not_fit_is_named(
    row: dict[str, Any], told: str, etude: Callable[..., Any], tmp_path: Path
) -> None:
    rows(tmp_path / "rows.jsonl")
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")
    answer = etude("train", *words_of(tmp_path))
    assert answer.code == 2, answer.out
    assert f"line 61, {told}" in answer.err
    assert not (tmp_path / "runs").exists()


def test_rows_without_any_number_are_not_scored(etude: Callable[..., Any], tmp_path: Path) -> None:
    written = rows(tmp_path / "rows.jsonl")
    lines = [
        json.dumps(row | {"values": [None] * len(row["words"])} if n % 3 == 0 else row)
        for n, row in enumerate(written)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    answer = etude("train", *words_of(tmp_path))
    assert answer.code == 0, answer.err
    (path,) = (tmp_path / "runs" / "words").iterdir()
    held = [n for n in range(60) if int((n + 1) * 0.25) > int(n * 0.25)]
    scores = load_run(path).scores("val")
    assert len(scores) == sum(n % 3 != 0 for n in held) < len(held)
    assert max(scores) < 0


def test_csv_holds_no_lists(etude: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("words,values\na b,1 2\n", encoding="utf-8")
    answer = etude("train", *words_of(tmp_path, f"data.path={path}"))
    assert answer.code == 2
    assert "expected a JSON or Parquet file (the rows contain lists)" in answer.err
