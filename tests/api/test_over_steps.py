"""Measures of saved checkpoints: their values, where they are stored, and when they are reused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import etude
from etude.errors import RequestError
from etude.interpret import attention_entropy, previous_token_scores

CALLS: list[int] = []
IDS = torch.arange(6)[None]


def mean_weight(model: Any, factor: float = 1.0) -> float:
    """A measure of a user, which returns a number."""
    CALLS.append(1)
    return factor * float(model.module.embedding.weight.detach().mean())


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, write_corpus: Callable, tiny: Callable
) -> Path:
    """The folder of two runs with checkpoints at steps 5 and 10, for seeds 0 and 1."""
    root = tmp_path_factory.mktemp("runs")
    corpus = write_corpus(root / "corpus.txt")
    for seed in (0, 1):
        words = tiny(corpus, root / "experiments", f"seed={seed}")
        etude.train(etude.compose(words, "run.save_every=5", "run.keep_every=5"))
    return root / "experiments"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Any:
    """A copy of the first run."""
    folder = shutil.copytree(etude.runs(trained).filter("seed=0")[0].path, tmp_path / "run")
    CALLS.clear()
    return etude.load_run(folder)


def test_values_are_those_of_each_checkpoint(run: Any) -> None:
    assert run.checkpoints == [5, 10]
    scores = run.over_steps(attention_entropy, IDS)
    assert scores.index.names == ["step", "layer", "head"]
    for step in run.checkpoints:
        expected = attention_entropy(run.model(str(step)), IDS)
        pd.testing.assert_series_equal(scores[step], expected)
    one = run.over_steps(attention_entropy, IDS, steps=[10])
    pd.testing.assert_series_equal(one, scores[scores.index.get_level_values("step") == 10])


def test_they_are_stored_and_found_again(run: Any, tmp_path: Path) -> None:
    values = run.over_steps(mean_weight, factor=2.0)
    assert values.index.name == "step"
    assert len(CALLS) == 2
    shutil.move(run.path, tmp_path / "moved")
    again = etude.load_run(tmp_path / "moved").over_steps(mean_weight, factor=2.0)
    pd.testing.assert_series_equal(again, values)
    assert len(CALLS) == 2
    (file,) = (tmp_path / "moved" / "measures").iterdir()
    assert file.name.startswith("mean_weight-")


@pytest.mark.parametrize(
    ("measure", "arguments"),
    [
        (mean_weight, {"factor": 3.0}),
        (partial(mean_weight, factor=3.0), {}),
        (lambda model: mean_weight(model), {}),
    ],
)
def test_other_arguments_are_measured(run: Any, measure: Any, arguments: dict[str, Any]) -> None:
    run.over_steps(mean_weight)
    for _ in range(2):
        run.over_steps(measure, **arguments)
    assert len(CALLS) == 4


def test_a_function_with_local_variables_is_not_stored(run: Any) -> None:
    local = 2.0

    def measure(model: Any) -> float:
        return mean_weight(model, local)

    for _ in range(2):
        run.over_steps(measure)
    assert len(CALLS) == 4
    assert not (run.path / "measures").exists()


def test_other_weights_are_measured(run: Any) -> None:
    run.over_steps(mean_weight)
    manifest = run.path / "checkpoints" / "step-00000005" / "MANIFEST.json"
    content = json.loads(manifest.read_text())
    (file,) = (run.path / "measures").iterdir()
    stored = json.loads(file.read_text())["values"]
    assert content["sha256"]["model.safetensors"] in stored


def test_a_changed_file_is_refused(run: Any) -> None:
    run.over_steps(mean_weight)
    (file,) = (run.path / "measures").iterdir()
    file.write_text(file.read_text().replace('"levels"', '"level"'))
    with pytest.raises(RequestError, match="the file was changed; to measure again, delete it"):
        run.over_steps(mean_weight)


def test_errors(run: Any) -> None:
    with pytest.raises(RequestError, match=r"steps with a checkpoint \(saved: 5, 10\)"):
        run.over_steps(mean_weight, steps=[5, 7])
    with pytest.raises(RequestError, match=r"a function that returns a pandas\.Series or a number"):
        run.over_steps(lambda model: "high")


def test_seeds_and_steps_and_heads(trained: Path) -> None:
    runs = etude.runs(trained)
    scores = runs.over_steps(previous_token_scores, length=4)
    assert scores.index.names == ["label", "seed", "step", "layer", "head"]
    for run in runs:
        part = scores.xs(int(run.config.seed), level="seed").droplevel("label")
        pd.testing.assert_series_equal(part, run.over_steps(previous_token_scores, length=4))
    assert scores.groupby(["step", "layer", "head"]).count().tolist() == [2, 2]
    with pytest.raises(RequestError, match="runs with different labels or seeds"):
        etude.Runs([runs[0], runs[0]]).over_steps(previous_token_scores, length=4)
    with pytest.raises(RequestError, match="at least one run"):
        etude.Runs([]).over_steps(previous_token_scores)
