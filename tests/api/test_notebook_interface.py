"""What notebooks use: sweeps, choices, dicts as overrides, and the methods of runs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import etude
from etude.config.compose import compose_in_search, search_configs
from etude.config.override_values import as_overrides
from etude.config.paths import conf_dir
from etude.errors import RequestError

SMALL = ["experiment=debug", "trainer.max_steps=2", "schedule.warmup_steps=0"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[etude.Runs]:
    """Runs of a sweep; the working folder contains them."""
    with contextlib.chdir(tmp_path_factory.mktemp("swept")):
        yield etude.sweep(*SMALL, {"optimizer.lr": [1e-3, 1e-2], "seed": range(2)})


def test_a_sweep_returns_its_runs_in_order(swept: etude.Runs) -> None:
    values = [(run.config.optimizer.lr, run.config.seed) for run in swept]
    assert values == [(1e-3, 0), (1e-3, 1), (1e-2, 0), (1e-2, 1)]
    assert {run.status for run in swept} == {"finished"}
    summaries = [run.summary for run in swept]
    again = etude.sweep(*SMALL, "optimizer.lr=1e-3,1e-2", "seed=0,1")
    assert [run.summary for run in again] == summaries
    assert [run.path for run in again] == [run.path for run in swept]


def test_a_failed_job_does_not_end_a_sweep(
    swept: etude.Runs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "etude")
    runs = etude.sweep(*SMALL, {"optimizer.lr": [1e30, 1e-3]})
    assert [run.status for run in runs] == ["diverged", "finished"]
    assert re.search(r"2 jobs: 1 diverged, 1 (reused|finished)", caplog.text)
    assert re.search(r"diverged  .*lr=1e\+30: diverged: ", caplog.text)


def test_jobs_with_the_same_config_are_one_run(swept: etude.Runs) -> None:
    assert len(etude.sweep(*SMALL, {"optimizer.lr": [1e-3, 0.001]})) == 1


def test_choices_are_the_files_of_a_group(tmp_path: Path) -> None:
    files = sorted(file.stem for file in (conf_dir() / "model" / "position").glob("*.yaml"))
    assert etude.choices("model/position") == files
    (tmp_path / "model" / "position").mkdir(parents=True)
    (tmp_path / "model" / "position" / "own.yaml").write_text("")
    assert etude.choices("model/position", config_dir=tmp_path) == sorted([*files, "own"])


def test_a_dict_of_overrides_composes_the_same_config() -> None:
    typed = etude.compose(
        "experiment=debug", "model/position=rotary", "model.layers=3", "optimizer.lr=0.5",
        "optimizer.betas=[0.9,0.95]", "model.norm.eps=1e-6", "init_from=null", "run.tags=['1',a]",
    )  # fmt: skip
    values = {
        "experiment": "debug",
        "model/position": "rotary",
        "model": {"layers": np.int64(3), "norm": {"eps": 1e-6}},
        "optimizer": {"lr": np.float32(0.5), "betas": (0.9, 0.95)},
        "init_from": None,
        "run.tags": ["1", "a"],
    }
    given = etude.compose(values)
    typed.run.overrides = given.run.overrides = []
    assert given == typed


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_characters="$\x00", exclude_categories=["C"])),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex(r"[a-z]+", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(value=VALUES)
def test_every_value_arrives_as_it_is(value: object) -> None:
    if value == {}:  # sets no key
        value = {"a": {}}
    with search_configs(None):
        config = compose_in_search(as_overrides([{"experiment": "debug", "vars": {"x": [value]}}]))
    assert OmegaConf.to_container(config.vars.x) == [value]


def test_a_list_is_a_value_or_an_axis() -> None:
    values = {"seed": [0, 1], "optimizer.betas": [[0.9, 0.95], (0.8, 0.9)], "run.tags": ["a b"]}
    assert as_overrides([values], sweep=True) == [
        "seed=0,1",
        "optimizer.betas=[0.9,0.95],[0.8,0.9]",
        "run.tags='a b'",
    ]
    assert as_overrides([values])[0] == "seed=[0,1]"


def test_all_wrong_values_are_reported() -> None:
    with pytest.raises(RequestError) as raised:
        as_overrides([{"seed": object(), "model": {"layers": {1, 2}}}])
    assert [problem.where for problem in raised.value.problems] == ["seed", "model.layers"]


def test_where_completes_keys(swept: etude.Runs) -> None:
    lr = [run.config.optimizer.lr for run in swept.where("lr > 5e-3")]
    assert lr == [1e-2, 1e-2]
    assert len(swept.where("lr=1e-3", "seed = 1")) == 1
    assert len(swept.where("experiment=debug")) == 4
    assert len(swept.where("optimizer.lr>1")) == 0


def test_a_run_generates_like_its_model(swept: etude.Runs) -> None:
    options = {"samples": 2, "max_new_tokens": 5, "seed": 3}
    assert swept[0].generate("The", **options) == swept[0].model().generate("The", **options)


def test_batches_of_a_split(swept: etude.Runs) -> None:
    run = swept[0]
    tokens = [batch["tokens"] for batch in run.data("val")]
    losses = run.scores("val")
    assert sum(len(each) for each in tokens) == len(losses)
    batch = next(iter(run.data("val")))
    with torch.no_grad():
        logits = run.model()(batch["tokens"])
    loss = torch.nn.functional.cross_entropy(logits[0], batch["targets"][0])
    assert float(loss) == pytest.approx(losses[0], rel=1e-5)


def test_diff_lists_what_differs(swept: etude.Runs) -> None:
    table = swept[0].diff(swept[3])
    assert sorted(table.index) == ["optimizer.lr", "seed"]
    assert table.loc["optimizer.lr"].tolist() == [1e-3, 1e-2]
    assert swept[0].diff(str(swept[3].path)).equals(table)
    assert swept[0].diff(swept[0]).empty


def test_plot_shows_the_metrics(swept: etude.Runs) -> None:
    figure = swept[0].plot("train/loss", "val/loss")
    assert [axes.get_ylabel() for axes in figure.axes] == ["train/loss", "val/loss"]
    line = figure.axes[0].lines[0]
    rows = swept[0].metrics.set_index("step")["train/loss"].dropna()
    assert list(line.get_xdata()) == rows.index.tolist()
    assert list(line.get_ydata()) == pytest.approx(rows.tolist())
    assert figure._repr_png_().startswith(b"\x89PNG")
