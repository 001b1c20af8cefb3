"""Measures during training: rows of metrics, the same weights, the same signature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import etude
from etude.config.checks import check
from etude.config.compose import compose
from etude.errors import RequestError, RunFailed
from etude.interpret import induction_scores
from etude.training.measuring import HeadScores

SHORT = ["experiment=induction", "trainer.max_steps=6", "trainer.val_check_interval=2"]
MORE = ["run.save_every=2", "run.keep_every=2"]


def trained(root: Path, *more: str) -> Any:
    return etude.train(compose([*SHORT, *MORE, f"run.root={root}", *more]))


def test_rows_are_the_measure_of_each_checkpoint_and_no_bit_changes(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain")
    run = trained(tmp_path / "measured", "callbacks=induction_scores")
    assert run.path.name == plain.path.name
    for step in (2, 4, 6):
        modules = [each.model(str(step)).module for each in (plain, run)]
        for ours, theirs in zip(*(m.parameters() for m in modules), strict=True):
            assert torch.equal(ours, theirs)
    scores = run.over_steps(induction_scores)
    names = [name for name in run.metrics if name.startswith("inside/")]
    assert names == [f"inside/induction/{i}.{h}" for i in range(2) for h in range(4)]
    rows = run.metrics.set_index("step")[names].loc[[2, 4, 6]]
    pd.testing.assert_series_equal(
        pd.Series(rows.to_numpy().flatten(), name="value"), scores.reset_index(drop=True), rtol=1e-6
    )
    shared = [name for name in plain.metrics if not name.startswith(("perf/", "time"))]
    pd.testing.assert_frame_equal(run.metrics[shared], plain.metrics[shared])


def test_not_in_the_signature() -> None:
    base = check(compose(SHORT)).identity
    assert check(compose([*SHORT, "callbacks=induction_scores"])).identity == base
    stopping = check(compose([*SHORT, "callbacks=early_stopping"])).identity
    assert stopping != base
    assert HeadScores.observes


def test_a_model_that_cannot_be_measured_is_refused_before_training(
    tmp_path: Path, corpus: Path, tiny: Callable
) -> None:
    words = tiny(
        corpus,
        tmp_path / "runs",
        "callbacks=induction_scores",
        "callbacks.induction_scores.length=20",
    )
    message = "callbacks.induction_scores.length = 20: expected at most 4, half of what the"
    with pytest.raises(RequestError, match=message):
        etude.train(compose(words))
    assert not (tmp_path / "runs").exists()
    (job,) = etude.plan(words, measure=False)
    assert message in str(job.state.problems[0])


def test_a_measure_that_fails_at_the_start_of_training(
    tmp_path: Path, corpus: Path, tiny: Callable
) -> None:
    target = "+callbacks.failing._target_=test_measuring.Failing"
    words = tiny(corpus, tmp_path / "runs", "extensions=[test_measuring]", target)
    with pytest.raises(RunFailed, match="no such measure"):
        etude.train(compose(words))
    (run,) = etude.runs(tmp_path / "runs")
    assert run.checkpoints == []


class MeanWeight(etude.training.measuring.Measured):
    """A measure of a user."""

    prefix = "mean_weight"

    def measure(self, module: Any) -> float:
        return float(module.embedding.weight.detach().mean())


class Failing(etude.training.measuring.Measured):
    """A measure that fails."""

    prefix = "failing"

    def measure(self, module: Any) -> float:
        raise ValueError("no such measure")


def test_a_measure_of_ones_own(tmp_path: Path) -> None:
    more = ["extensions=[test_measuring]", "+callbacks.mean._target_=test_measuring.MeanWeight"]
    run = trained(tmp_path, *more)
    expected = run.model("last").module.embedding.weight.detach().mean()
    assert run.metrics["inside/mean_weight"].iloc[-1] == pytest.approx(float(expected))
