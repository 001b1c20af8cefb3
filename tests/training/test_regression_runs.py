"""Regression runs: from the command to scores, stopped and continued, and unsupported options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import assert_same

import etude as package
from etude.config.compose import compose
from etude.errors import RequestError
from etude.models.regressor import NumberModel
from etude.training.run import train

WORDS = [
    "experiment=icl_regression", "name=toy", "model.layers=1", "model.heads=2", "model.dim=16",
    "trainer.max_steps=30", "trainer.val_check_interval=10", "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=10", "schedule.warmup_steps=2", "data.validation=200",
    "data.batch.examples=32",
]  # fmt: skip


def test_from_command_to_score(etude: Any, tmp_path: Path) -> None:
    words = [*WORDS, "data.validate_training=true", f"run.root={tmp_path}"]
    answer = etude("train", *words)
    assert answer.code == 0, answer.err
    (folder,) = (tmp_path / "toy").iterdir()
    assert (folder / "figures" / "loss.png").exists()
    assert not (folder / "samples").exists()
    run = package.load_run(folder)
    rows = [row for row in run.record.rows() if "val/error/6" in row]
    assert len(rows) == 3
    assert rows[-1]["val/loss"] < rows[0]["val/loss"]
    found = run.evaluate(which="last")
    assert [*found] == ["loss", *(f"error/{number}" for number in range(7))]
    for name, value in found.items():
        assert value == pytest.approx(rows[-1][f"val/{name}"], rel=1e-6)
        assert f"seen/{name}" in rows[-1]
    errors = [found[f"error/{number}"] for number in range(7)]
    assert np.mean(errors) * 3 == pytest.approx(found["loss"])
    model = run.model("last")
    assert isinstance(model, NumberModel)
    assert model([[0.1, 0.2, 0.3]]).shape == (1,)

    answer = etude("evaluate", folder, "--checkpoint", "last")
    assert f"error/6              {found['error/6']:.4f}" in answer.out
    assert etude("evaluate", folder, "--split", "test").code == 2
    assert etude("evaluate", folder, "--data", "rows.jsonl").code == 2
    shown = etude("runs", "show", folder).out.split()
    assert shown[shown.index("tokenizer") + 1 :][:3] == ["none", "(numeric", "data)"]
    for words in (["generate", folder], ["predict", folder, "--text", "1 2"]):
        answer = etude(*words)
        assert answer.code == 2, words
        assert "Traceback" not in answer.err
    answer = etude("generate", folder)
    assert "a model that generates text" in answer.err
    answer = etude("convert", folder, tmp_path / "converted")
    assert answer.code == 2
    assert "Regressor" in answer.err
    with pytest.raises(RequestError, match="a run whose task gives each example a score"):
        run.scores()


def test_what_is_shown_and_planned(etude: Any, tmp_path: Path) -> None:
    told = etude("data", "show", *WORDS).out
    assert "examples of 13 positions" in told
    assert "numbers per position: 3" in told
    assert "numbers (32, 13, 3)" in told
    targets = next(line for line in told.splitlines() if line.startswith("  targets: "))
    assert targets.split()[2::2] == ["·"] * 6
    told = etude("plan", *WORDS, f"run.root={tmp_path}").out
    assert "parameters  3,601\n" in told
    assert "time left" in told


def test_cut_and_continued(tmp_path: Path) -> None:
    def config(place: str, *more: str) -> Any:
        return compose([*WORDS, *more, "trainer.micro_batch=8", f"run.root={tmp_path / place}"])

    whole = train(config("whole")).record
    train(config("cut", "run.stop_at_step=13"))
    assert_same(train(config("cut")).record, whole)


def test_from_another_run(tmp_path: Path) -> None:
    root = f"run.root={tmp_path}"
    first = train(compose([*WORDS, root])).record
    more = [word for word in WORDS if not word.startswith("model.")]
    record = train(compose([*more, root, f"init_from={first.path}", "seed=1"])).record
    losses = [row["val/loss"] for row in record.rows() if "val/loss" in row]
    begun = [row["val/loss"] for row in first.rows() if "val/loss" in row]
    assert losses[0] < begun[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["model.inputs=4"],
            "model.inputs = 4: expected 3, as the data has 3 numbers per position",
        ),
        (["model=nano"], "expected a regressor for Regression"),
        (["data=sort"], "expected examples with the fields numbers, values"),
        (
            ["data=hkcancor", "~data.validation"],
            "synthetic data for the run's task, such as data=icl_regression",
        ),
        (["task=algorithmic"], "expected a decoder for Algorithmic"),
        (["task=causal_lm"], "for task=regression"),
        (["model/mask=bidirectional"], "a causal mask"),
        (["data.sequence_length=8"], "an odd number"),
    ],
)
def test_what_does_not_fit(etude: Any, tmp_path: Path, words: list[str], said: str) -> None:
    others = [word for word in WORDS if not ("data=hkcancor" in words and "data." in word)]
    answer = etude("train", *others, *words, f"run.root={tmp_path}")
    assert answer.code == 2
    assert said in answer.err
