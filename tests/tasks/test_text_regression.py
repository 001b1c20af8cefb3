"""Text regression: metrics compared with scipy and scikit-learn, the loss with the module alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error

from etude.api import load_run
from etude.tasks.numbers import number_metrics, pearson, ranks

WORTH = {"good": 1.0, "bad": -1.0, "fine": 0.5, "awful": -2.0, "great": 2.0}


@given(
    st.lists(st.tuples(st.integers(-4, 4), st.floats(-1e3, 1e3, width=32)), min_size=3, max_size=40)
)
@settings(max_examples=60, deadline=None)
def test_metrics_as_scipy_and_scikit_learn(pairs: list[tuple[int, float]]) -> None:
    actual, found = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    assert ranks(found).tolist() == scipy.stats.rankdata(found).tolist()
    metrics = number_metrics(actual[:, None], found[:, None], ["score"])
    assert metrics["error"] == pytest.approx(mean_absolute_error(actual, found))
    assert set(metrics) == {"error", "pearson", "spearman"}
    if len(set(actual)) > 1 and len(set(found)) > 1 and np.ptp(found) > 1e-6:
        expected = scipy.stats.pearsonr(actual, found).statistic
        assert metrics["pearson"] == pytest.approx(expected, abs=1e-9)
        expected = scipy.stats.spearmanr(actual, found).statistic
        assert metrics["spearman"] == pytest.approx(expected, abs=1e-12)


def test_a_constant_has_no_correlation() -> None:
    assert math.isnan(pearson(np.ones(4), np.arange(4.0)))
    several = number_metrics(np.eye(3), np.eye(3), ["a", "b", "c"])
    assert several["pearson"] == several["spearman/b"] == pytest.approx(1)
    assert several["error"] == several["error/a"] == 0


def rows(file: Path) -> list[dict[str, Any]]:
    words = list(WORTH)
    found = []
    for number in range(80):
        chosen = [words[(number * 3 + index * (number % 7)) % 5] for index in range(1 + number % 3)]
        text, score = " ".join(chosen), sum(WORTH[word] for word in chosen)
        found.append({"text": f"{text} {number}", "score": score, "count": len(chosen)})
    file.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return found


def words_of(tmp_path: Path, *more: str) -> list[str]:
    return [
        "~experiment", "name=scored", "data=scored_files", "data/tokenizer=char",
        f"data.path={tmp_path / 'rows.jsonl'}", "task=text_regression", "model=encoder_nano",
        "model/head=classification", "model.dim=16", "model.layers=1", "model.heads=2",
        "data.sequence_length=32", "data.batch.examples=8", "data.validation=0.25",
        "trainer.max_steps=6", "trainer.val_check_interval=6", "schedule.warmup_steps=0",
        f"run.root={tmp_path / 'runs'}", f"run.cache={tmp_path / 'cache'}", *more,
    ]  # fmt: skip


def trained(etude: Callable[..., Any], tmp_path: Path, *more: str) -> Any:
    answer = etude("train", *words_of(tmp_path, *more))
    assert answer.code == 0, answer.err
    (path,) = (tmp_path / "runs" / "scored").iterdir()
    return load_run(path)


def predictions_of(run: Any, text: str) -> list[float]:
    """Returns the predictions of the module alone."""
    tokenizer = run.tokenizer()
    ids = torch.tensor([tokenizer.backend.encode(text).ids])
    with torch.no_grad():
        found: list[float] = run.model().module(ids)[0].tolist()
    return found


def test_one_number(etude: Callable[..., Any], tmp_path: Path) -> None:
    written = rows(tmp_path / "rows.jsonl")
    run = trained(etude, tmp_path)
    held = [row for n, row in enumerate(written) if int((n + 1) * 0.25) > int(n * 0.25)]
    found = [predictions_of(run, row["text"])[0] for row in held]
    actual = [row["score"] for row in held]
    squared = np.square(np.subtract(found, actual))
    metrics = run.evaluate("val")
    assert metrics["loss"] == pytest.approx(squared.mean(), rel=1e-5)
    expected = scipy.stats.spearmanr(actual, found).statistic
    assert metrics["spearman"] == pytest.approx(expected, abs=1e-6)
    last = run.metrics.iloc[-1]
    for name, value in metrics.items():
        assert last[f"val/{name}"] == pytest.approx(value, rel=1e-6)
    assert run.scores("val") == pytest.approx((-squared).tolist(), rel=1e-4)
    (told,) = run.predict(["a great one"])
    assert told["scores"]["score"] == pytest.approx(predictions_of(run, "a great one")[0], rel=1e-5)
    answer = etude("predict", run.path, "--text", "a great one")
    assert answer.out == f"{told['scores']['score']:.3f}\ta great one\n"
    answer = etude("data", "show", *words_of(tmp_path))
    assert answer.code == 0, answer.err
    assert "values: 1" in answer.out
    assert "numbers: " in answer.out


def test_several_numbers(etude: Callable[..., Any], tmp_path: Path) -> None:
    rows(tmp_path / "rows.jsonl")
    run = trained(etude, tmp_path, "data.score=[score,count]", "trainer.micro_batch=3")
    assert run.labels == ["score", "count"]
    metrics = run.evaluate("val")
    assert metrics["error"] == pytest.approx((metrics["error/score"] + metrics["error/count"]) / 2)
    (told,) = run.predict(["fine"])
    assert list(told["scores"].values()) == pytest.approx(predictions_of(run, "fine"), rel=1e-5)


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        (
            "rows.jsonl",
            '{"text": "a", "score": "3"}',
            "line 81, column score = '3': expected a finite",
        ),
        (
            "rows.jsonl",
            '{"text": "a", "score": true}',
            "line 81, column score = True: expected a finite",
        ),
        ("rows.jsonl", '{"text": "a", "score": NaN}', "line 81"),
        (
            "rows.jsonl",
            '{"text": "a", "score": null}',
            "line 81, column score = None: expected a finite",
        ),
        ("rows.csv", "b,about 3", "column score = 'about 3': expected a finite number"),
        ("rows.csv", "b,inf", "column score = 'inf': expected a finite number"),
        ("rows.csv", "b,", "column score"),
        ("rows.csv", "b,1_000", "column score = '1_000': expected a finite number"),
        ("rows.csv", "b,\u0663", "column score"),
        ("rows.csv", "b,1e39", "column score = '1e39': expected a finite number"),
    ],
)
def test_what_is_no_number_is_named(
    file: str, text: str, told: str, etude: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / file
    if file.endswith("csv"):
        path.write_text("text,score\na,1\nc,2.5\nd,3\n", encoding="utf-8")
    else:
        rows(path)
    with path.open("a", encoding="utf-8") as lines:
        lines.write(text + "\n")
    answer = etude("train", *words_of(tmp_path, f"data.path={path}"))
    assert answer.code == 2, answer.out
    assert told in answer.err
    assert not (tmp_path / "runs").exists()


def test_the_loss_does_not_depend_on_the_split(etude: Callable[..., Any], tmp_path: Path) -> None:
    rows(tmp_path / "rows.jsonl")
    losses = []
    for micro in ("null", "1", "5"):
        more = (f"run.root={tmp_path / micro}", f"trainer.micro_batch={micro}", "model.dropout=0")
        answer = etude("train", *words_of(tmp_path, *more, "trainer.precision=64-true"))
        assert answer.code == 0, answer.err
        (path,) = (tmp_path / micro / "scored").iterdir()
        losses.append(load_run(path).metrics["val/loss"].dropna().iloc[-1])
    assert losses[1:] == pytest.approx(losses[:1] * 2, rel=1e-6)


def test_an_undefined_correlation_ends_no_run(etude: Callable[..., Any], tmp_path: Path) -> None:
    """The correlation of constant numbers is undefined; as the monitor, it fails the run with a
    message.
    """
    written = rows(tmp_path / "rows.jsonl")
    lines = [json.dumps({**row, "score": 2.0}) for row in written]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = trained(etude, tmp_path)
    assert run.status == "finished"
    last = run.metrics.iloc[-1]
    assert math.isfinite(last["val/loss"])
    assert "val/pearson" not in run.metrics
    answer = etude("train", *words_of(tmp_path, "task.monitor=val/pearson"))
    assert answer.code == 1
    assert "val/pearson is nan at step 6" in answer.err


def test_a_larger_correlation_is_better(etude: Callable[..., Any], tmp_path: Path) -> None:
    rows(tmp_path / "rows.jsonl")
    more = ("trainer.max_steps=24", "trainer.val_check_interval=3", "optimizer.lr=0.01")
    run = trained(etude, tmp_path, *more, "task.monitor=val/spearman")
    values = run.metrics["val/spearman"].dropna()
    assert run.summary["best"]["value"] == values.max() > values.min()


def test_a_column_that_is_called_text(etude: Callable[..., Any], tmp_path: Path) -> None:
    written = rows(tmp_path / "rows.jsonl")
    lines = [json.dumps({"review": row["text"], "text": row["score"]}) for row in written]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = trained(etude, tmp_path, "data.text=review", "data.score=text")
    (told,) = run.predict(["fine"])
    assert told == {
        "text": "fine",
        "scores": {"text": pytest.approx(predictions_of(run, "fine")[0])},
    }
