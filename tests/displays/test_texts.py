"""Texts and tables of the other results: one line or a table instead of an address or a dump."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from html_reader import HOSTILE, Parsed, check_hostile

import etude
from etude import Run, Runs
from etude.activations import add, from_, heads, mean, positions, zero
from etude.analysis.curves import Curve
from etude.analysis.frame_table import frame_table
from etude.analysis.learning_rates import LearningRates
from etude.analysis.run_groups import Groups
from etude.data.evaluation_data import EvaluationRequest
from etude.markup.fragments import display


def test_no_result_is_an_address_or_a_dump(trained: Run) -> None:
    runs = Runs([trained])
    groups = runs.group()
    evaluated = trained.evaluated(trained.data(), EvaluationRequest("val"))
    for result, start in (
        (trained.record, f"Record('{trained.path}')"),
        (trained.tokenizer(), "Tokenizer(BPE, "),
        (trained.checked, "CheckedConfig('tiny', seed="),
        (evaluated, "Evaluated(split 'val' of "),
        (groups, "Groups(1 group, best/val/loss)\n"),
        (groups.best, "Group('tiny', 1 run, mean "),
        (runs.compare(), "Comparison(1 run, val/loss over step)"),
        (trained.model(), "LanguageModel(Decoder, layers 1, width 8, heads 1, vocabulary "),
    ):
        assert repr(result).startswith(start)
        assert len(repr(result)) < 400
        assert not re.search(r" at 0x|tensor\(|array\(", repr(result))


def test_edits_state_their_arguments(trained: Run) -> None:
    model = trained.model()
    seen = {"blocks.0.out": torch.zeros(1)}
    assert repr(heads([0, 1], zero)) == "heads([0, 1], zero)"
    assert repr(positions(-1, from_(seen))) == "positions(-1, from_(dict of 1 site))"
    assert repr(add(torch.zeros(8), 0.5)) == "add(tensor of shape (8,), scale=0.5)"
    assert repr(heads(slice(2), mean)) == "heads(slice(None, 2, None), mean)"
    assert repr(heads(0, torch.relu)) == "heads(0, relu)"
    with model.capture("blocks.0.out", "logits", until="blocks.0.out") as captured:
        model(torch.arange(4))
    rows = Parsed(captured._repr_html_()).rows()
    assert rows[1] == ["blocks.0.out", "B T D", "(1, 4, 8)", "torch.float32", "cpu"]
    assert rows[2][2] == "not computed"
    assert repr(captured).startswith("Capture of 2 sites\n")


def test_a_plan_is_a_list_and_a_table(corpus: Path, tmp_path: Path, tiny: Callable) -> None:
    words = tiny(corpus, tmp_path, "optimizer.lr=1e-3,1e-2")
    jobs = etude.plan(words, multirun=True, measure=False)
    assert isinstance(jobs, list)
    assert repr(jobs[0]).startswith(f"PlannedJob(tiny {jobs[0].signature} ")
    assert repr(jobs).splitlines()[0] == "2 jobs: 2 new"
    rows = Parsed(jobs._repr_html_()).rows()
    assert [row[2] for row in rows[1:]] == [job.signature for job in jobs]
    assert [row[4] for row in rows[1:]] == [f"{job.size.parameters:,}" for job in jobs if job.size]
    jobs[0].label = HOSTILE
    check_hostile(jobs._repr_html_())
    assert Parsed(type(jobs)([])._repr_html_()).rows() == [
        ["", "label", "signature", "state", "parameters", "tokens", "FLOPs", "memory", "time left"]
    ]
    assert "and 10 more jobs" in Parsed(type(jobs)(jobs[1:] * 60)._repr_html_()).text


def test_a_range_test_shows_its_rates_and_its_curve() -> None:
    rates = LearningRates(
        [1e-3, 1e-2, 1e-1], [3.0, 2.0, 4.0], [3.0, 2.5, 4.0], 0.00312, None, [HOSTILE], 1e-3,
        Path("experiments/_lr/x"),
    )  # fmt: skip
    assert repr(rates) == (
        "LearningRates(steepest 0.00312, tenth of minimum none, steps 3, folder experiments/_lr/x)"
    )
    parsed = Parsed(rates._repr_html_())
    assert ["steepest", "0.00312"] in parsed.rows()
    assert set(parsed.texts("text")) == {"loss", "4", "2.5", "lr 0.001", "0.1"}
    check_hostile(rates._repr_html_())


def test_a_curve_states_its_size() -> None:
    curve: Any = Curve("a", torch.zeros(3).numpy(), torch.zeros(3).numpy())
    assert repr(curve) == "Curve('a', 3 points)"


def test_data_frames_are_tables() -> None:
    frame = pd.DataFrame(
        {"optimizer.lr": [1e-3, None], "n": [3, 4], "val/loss": [1.23456789, float("nan")]},
        index=["a", HOSTILE],
    )
    rows = Parsed(frame_table(frame, index="run")).rows()
    assert rows[0] == ["run", "optimizer.lr", "n", "val/loss"]
    assert rows[1] == ["a", "0.001", "3", "1.23457"]
    assert rows[2][1:] == ["", "4", ""]
    check_hostile(display(frame_table(frame, index="run")))
    assert Parsed(frame_table(frame)).rows()[1] == ["0.001", "3", "1.23457"]


@pytest.mark.parametrize("by", [(), ("model.layers",)])
def test_groups_show_their_means(trained: Run, by: tuple[str, ...]) -> None:
    groups = Groups([trained.record], by=by)
    head, row = Parsed(groups._repr_html_()).rows()
    value = trained.summary["best"]["value"]
    assert row[head.index("mean")] == f"{value:.7g}"
    assert row[head.index("std")] == ""
