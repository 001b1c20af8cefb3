"""A task and a source of a user's own do all that those of the package do."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lengths
import numpy as np
import pytest
import torch

from etude.api import Runs, load_run

DATA = """
defaults:
  - tokenizer: char
  - _self_
_target_: lengths.WordValues
path: ???
validation: 0.2
sequence_length: 48
batch: {examples: 8}
"""
TASK = "_target_: lengths.WordRegression\n_partial_: true\n"


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The overrides of a small run."""
    for group, text in (("data", DATA), ("task", TASK)):
        file = tmp_path / "conf" / group / "lengths.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(text, encoding="utf-8")
    lengths.write(tmp_path / "words.jsonl")
    return [
        f"--config-dir={tmp_path / 'conf'}", "~experiment", "name=lengths", "data=lengths",
        "task=lengths", "model=encoder_nano", "model/head=tagging", "model.head.labels=1",
        "model.dim=16", "model.layers=1", "model.heads=2", f"data.path={tmp_path / 'words.jsonl'}",
        "trainer.max_steps=30", "trainer.val_check_interval=15", "optimizer.lr=0.02",
        "schedule.warmup_steps=0", f"run.root={tmp_path / 'runs'}", f"run.cache={tmp_path}/cache",
        "extensions=[lengths]",
    ]  # fmt: skip


def records(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "runs" / "lengths").iterdir())


def by_hand(run: Any, tmp_path: Path, rows: list[int]) -> tuple[list[float], list[float]]:
    """Actual and predicted values of some rows, by the module alone."""
    module, tokenizer = run.model().module, run.tokenizer()
    lines = (tmp_path / "words.jsonl").read_text(encoding="utf-8").splitlines()
    actual, said = [], []
    for number in rows:
        row = json.loads(lines[number])
        encoding = tokenizer.backend.encode(row["words"], is_pretokenized=True)
        with torch.no_grad():
            found = module(torch.tensor([encoding.ids]))[0, :, 0]
        for word in range(len(row["words"])):
            said.append(float(found[encoding.word_ids.index(word)]))
            actual.append(row["values"][word])
    return actual, said


def test_everything_that_a_run_can_be_asked(
    words: list[str], etude: Callable[..., Any], tmp_path: Path
) -> None:
    trained = etude("train", *words)
    assert trained.code == 0, trained.err
    assert "val/loss" in trained.out.rpartition("finished:")[2]
    (path,) = records(tmp_path)
    run = load_run(path, trust=["lengths"])
    trust = ("--trust", "lengths")
    last = run.metrics.dropna(subset=["val/loss"]).iloc[-1]
    first = run.metrics.dropna(subset=["val/loss"]).iloc[0]
    assert last["val/loss"] < first["val/loss"]

    answer = etude("evaluate", path, "--by", "size", "--json", *trust)
    assert answer.code == 0, answer.err
    (found,) = json.loads(answer.out)
    held = [number for number in range(60) if int((number + 1) * 0.2) > int(number * 0.2)]
    actual, said = by_hand(run, tmp_path, held)
    errors = np.subtract(actual, said)
    assert found["metrics"]["loss"] == pytest.approx(np.square(errors).mean(), rel=1e-4)
    assert found["metrics"]["pearson"] == pytest.approx(np.corrcoef(actual, said)[0, 1], rel=1e-4)
    assert found["metrics"]["loss"] == pytest.approx(run.summary["best"]["value"], rel=1e-6)
    assert {each["examples"] for each in found["slices"].values()} == {6}
    short = [number for number in held if number % 4 < 2]
    actual, said = by_hand(run, tmp_path, short)
    error = np.abs(np.subtract(actual, said)).mean()
    assert found["slices"]["short"]["error"] == pytest.approx(error, rel=1e-4)

    (told,) = run.predict(["the wonderful"])
    assert list(told["values"]) == ["the", "wonderful"]
    answer = etude("predict", path, "--text", "to somebody", *trust)
    assert answer.code == 0, answer.err
    assert "somebody" in answer.out
    scores = run.scores("val")
    assert len(scores) == len(held)
    assert -np.mean(scores) > 0


def test_swept_compared_and_continued(
    words: list[str], etude: Callable[..., Any], tmp_path: Path
) -> None:
    swept = etude("train", "-m", *words, "seed=0,1")
    assert swept.code == 0, swept.err
    assert "2 jobs: 2 finished" in swept.out
    runs = Runs([load_run(path, trust=["lengths"]) for path in records(tmp_path)])
    frame = runs.significance("val")
    assert len(frame) == 1
    assert math.isfinite(frame["difference"].iloc[0])
    asked = [str(path) for path in records(tmp_path)]
    answer = etude(
        "runs", "significance", *asked, "--trust", "lengths", "--root", tmp_path / "runs"
    )
    assert answer.code == 0, answer.err
    assert f"{frame['mean'].iloc[0]:.5f}" in answer.out
    assert etude("train", *words, "seed=2", "run.stop_at_step=15").code == 0
    assert etude("train", *words, "seed=2").code == 0
    assert etude("train", *words, "seed=2", f"run.root={tmp_path / 'whole'}").code == 0
    kept = [
        load_run(path, trust=["lengths"]).model("last").module.state_dict()
        for path in (tmp_path / "whole" / "lengths").iterdir()
    ]
    again = load_run(tmp_path / "runs" / "lengths" / next(
        path.name for path in (tmp_path / "whole" / "lengths").iterdir()
    ), trust=["lengths"]).model("last").module.state_dict()  # fmt: skip
    assert all(torch.equal(kept[0][name], tensor) for name, tensor in again.items())


def test_scores_of_its_own(
    words: list[str], etude: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        lengths.WordRegression, "scores", lambda self, evaluated: [float(len(evaluated.rows)), 2.0]
    )
    assert etude("train", *words).code == 0
    (path,) = records(tmp_path)
    run = load_run(path, trust=["lengths"])
    assert run.scores("val") == run.scores("val") == [12.0, 2.0]


def page(name: str) -> tuple[list[str], list[str]]:
    """The Python and YAML blocks of a page on contracts."""
    text = (Path(__file__).parents[2] / "docs" / "contracts" / f"{name}.md").read_text("utf-8")
    python, yaml = (re.findall(rf"```{kind}\n(.*?)```", text, re.S) for kind in ("python", "yaml"))
    return python, yaml


def test_the_metric_of_labelled_rows_of_the_page_on_tasks(
    etude: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the page's source of rows; against scikit-learn, in slices too."""
    from sklearn.metrics import cohen_kappa_score

    codes = {"kappa_task": page("task")[0][1], "notes_data": page("data")[0][1]}
    configs = {"task": page("task")[1][1], "data": page("data")[1][1]}
    for module, code in codes.items():
        (tmp_path / f"{module}.py").write_text(code, encoding="utf-8")
    for group, config in configs.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        module = "kappa_task" if group == "task" else "notes_data"
        text = config.replace("my_parts", module)
        (tmp_path / "conf" / group / "mine.yaml").write_text(text, encoding="utf-8")
    draw = np.random.default_rng(0)
    lines = []
    for number in range(120):
        label = ("good", "bad", "plain")[number % 3]
        words = draw.choice([label, "film", "story", "good", "bad"], 6)
        lines.append(f"{label}: {' '.join(words)} {number}")
    (tmp_path / "notes.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    answer = etude(
        "train", f"--config-dir={tmp_path / 'conf'}", "~experiment", "name=notes", "data=mine",
        "task=mine", "model=encoder_nano", "model/head=mean", "model.dim=16", "model.layers=1",
        "model.heads=2", f"data.path={tmp_path / 'notes.txt'}", "trainer.max_steps=40",
        "trainer.val_check_interval=10", "optimizer.lr=0.02", "schedule.warmup_steps=0",
        f"run.root={tmp_path / 'runs'}", f"run.cache={tmp_path}/cache", "run.samples=0",
        "trainer.accelerator=cpu", "data.tokenizer.vocab_size=80",
        "extensions=[kappa_task,notes_data]",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    (path,) = [file.parent for file in tmp_path.rglob("run.json")]
    run = load_run(path, trust=list(codes))
    kappas = run.metrics["val/kappa"].dropna()
    assert run.summary["best"]["metric"] == "val/kappa"
    assert run.summary["best"]["value"] == kappas.max()
    trust = ["--trust", *codes]
    answer = etude("evaluate", str(path), "--json", *trust)
    assert answer.code == 0, answer.err
    (told,) = json.loads(answer.out)
    (file,) = path.glob("predictions/*.jsonl")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    expected = cohen_kappa_score([f["label"] for f in found], [f["prediction"] for f in found])
    assert told["metrics"]["kappa"] == pytest.approx(expected)
    answer = etude("predict", str(path), "--text", "good good good", *trust)
    assert answer.code == 0, answer.err
    answer = etude("data", "step", str(path), "3", *trust)
    assert "notes.txt, line" in answer.out


def test_the_metric_of_the_page_on_tasks(
    etude: Callable[..., Any], toy: Callable[..., list[str]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    page = Path(__file__).parents[2] / "docs" / "contracts" / "task.md"
    _, _, code = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    (tmp_path / "top_five.py").write_text(code, encoding="utf-8")
    file = tmp_path / "conf" / "task" / "top_five.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("_target_: top_five.MaskedLMWithTopFive\n_partial_: true\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    words = [word for word in toy("masked_lm", tmp_path) if not word.startswith("task")]
    answer = etude(
        "train", f"--config-dir={tmp_path / 'conf'}", *words, "task=top_five",
        "extensions=[top_five]",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    (path,) = [file.parent for file in tmp_path.rglob("run.json")]
    run = load_run(path, trust=["top_five"])
    found = run.evaluate("val")
    row = run.metrics.dropna(subset=["val/loss"]).iloc[-1]
    assert found["accuracy"] <= found["top_five"] <= 1
    assert found["top_five"] > 0
    assert run.evaluate("val", which="last")["top_five"] == pytest.approx(row["val/top_five"])


def test_reproduced(words: list[str], etude: Any, tmp_path: Path) -> None:
    """A paper about runs of a user's own task on a user's own data."""
    config_dir, *rest = words
    runs = [w for w in rest if not w.startswith(("run.root", "name=")) and w != "~experiment"]
    paper = {
        "title": "Lengths",
        "claim": "The length of a word is learnt",
        "citation": "Nobody (2026). An example.",
        "link": "https://example.org",
        "tier": "cpu",
        "cost": "seconds",
        "seeds": [0],
        "runs": {
            "learnt": ["~experiment", *runs],
            "untrained": ["~experiment", *runs, "optimizer.lr=1e-9"],
        },
        "measure": {
            "_target_": "etude.papers.readings.Metrics",
            "values": {"pearson": {"run": "learnt", "metric": "val/pearson"}},
            "controls": {"pearson": {"run": "untrained", "metric": "val/pearson"}},
            "curves": ["val/pearson"],
        },
        "cells": [
            {
                "key": "pearson",
                "says": "the correlation",
                "published": None,
                "read": "in words",
                "tolerance": {"above": 0.8},
                "because": "lengths stand in the words",
                "control": "hardly trained",
            }
        ],
    }
    file = tmp_path / "conf" / "paper" / "word_lengths.yaml"
    file.parent.mkdir()
    file.write_text(json.dumps(paper), encoding="utf-8")
    root = ["--root", str(tmp_path / "runs"), "--config-dir", config_dir.partition("=")[2]]
    answer = etude("reproduce", "word_lengths", *root)
    assert answer.code == 0, answer.out + answer.err
    result = json.loads((tmp_path / "runs/_papers/word_lengths/result.json").read_text())
    (found,) = result["readings"]["pearson"]["values"]
    (path,) = [p for p in (tmp_path / "runs" / "word_lengths").iterdir()
               if "1e-09" not in (p / "config.yaml").read_text()]  # fmt: skip
    learnt = load_run(path, trust=["lengths"]).metrics["val/pearson"].dropna().iloc[-1]
    assert found == pytest.approx(learnt)
    again = etude("reproduce", "word_lengths", *root)
    assert "2 runs already finished, nothing to train" in again.out
