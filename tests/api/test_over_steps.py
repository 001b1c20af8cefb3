"""Measures of saved checkpoints: their values, where they are stored, and when they are reused."""

from __future__ import annotations

import array
import importlib
import json
import linecache
import shutil
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import etude
from etude.analysis.measure_curves import (
    draw_over_steps,
    mean_over_seeds,
    report_different_steps,
)
from etude.analysis.statistics import interval
from etude.errors import RequestError
from etude.interpret import attention_entropy, previous_token_scores

CALLS: list[int] = []
IDS = torch.arange(6)[None]


def mean_weight(model: Any, factor: float = 1.0) -> float:
    """A measure of a user, which returns a number."""
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
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A copy of the first run. `CALLS` counts the models that are loaded to be measured."""
    load = etude.Run.model

    def counted(self: Any, *args: Any) -> Any:
        CALLS.append(1)
        return load(self, *args)

    monkeypatch.setattr(etude.Run, "model", counted)
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
        (lambda model, factor=2.0: mean_weight(model, factor), {}),
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
    assert list((run.path / "measures").glob("measure-*")) == []


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


def test_functions_with_the_same_name_are_different(run: Any) -> None:
    assert run.over_steps(lambda model: 1.0).tolist() == [1, 1]
    assert run.over_steps(lambda model: 2.0).tolist() == [2, 2]
    for number in (3, 4):

        def measure(model: Any, number: int = number) -> float:
            return float(number)

        assert run.over_steps(measure).tolist() == [number] * 2


def test_the_code_in_memory_counts(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "measures_of_a_user.py"
    file.write_text("def measure(model):\n    return 1.0\n")
    module = importlib.import_module("measures_of_a_user")
    assert run.over_steps(module.measure).tolist() == [1, 1]
    file.write_text("# edited\ndef measure(model):\n    return 20.0\n")
    assert run.over_steps(module.measure).tolist() == [1, 1]
    importlib.reload(module)
    assert run.over_steps(module.measure).tolist() == [20, 20]


PROBE = torch.nn.Linear(1, 1)


def probed(model: Any) -> float:
    """A measure that depends on a model of the user."""
    return float(PROBE.weight.detach())


def test_a_function_that_reads_a_model_is_not_stored(run: Any) -> None:
    before = run.over_steps(probed)
    with torch.no_grad():
        PROBE.weight += 1
    assert run.over_steps(probed).tolist() == pytest.approx([x + 1 for x in before])
    assert list((run.path / "measures").glob("probed-*")) == []


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


def test_means_and_intervals_over_seeds(trained: Path) -> None:
    runs = etude.runs(trained)
    values = runs.over_steps(previous_token_scores, length=4)
    table = runs.over_steps(previous_token_scores, length=4, intervals=True)
    assert table.index.names == ["label", "step", "layer", "head"]
    two = values.xs((10, 0, 0), level=["step", "layer", "head"])
    row = table.xs((10, 0, 0), level=["step", "layer", "head"]).iloc[0]
    assert (row["n"], row["mean"]) == (2, pytest.approx(two.mean()))
    assert row["std"] == pytest.approx(abs(two.iloc[0] - two.iloc[1]) / 2**0.5)
    assert table[["low", "high"]].isna().all(axis=None)  # two seeds


def test_intervals_are_those_of_statistics() -> None:
    index = pd.MultiIndex.from_product([["a", "b"], range(4), [5, 10]], names=LEVELS)
    values = pd.Series(torch.rand(16, generator=torch.Generator().manual_seed(1)), index=index)
    table = mean_over_seeds(values)
    assert table.index.tolist() == [("a", 5), ("a", 10), ("b", 5), ("b", 10)]
    for (label, step), row in table.iterrows():
        group = values.xs((label, step), level=["label", "step"]).tolist()
        assert (row["low"], row["high"]) == interval(group)
        assert row["n"] == 4


def test_curves_with_bands(trained: Path) -> None:
    runs = etude.runs(trained)
    values = runs.over_steps(previous_token_scores, length=4)
    figure = runs.plot_over_steps(previous_token_scores, length=4)
    (axes,) = [each for each in figure.axes if each.lines]
    (line,) = [each for each in axes.lines if len(each.get_xdata()) == 2]
    means = values.groupby("step").mean()
    assert list(line.get_xdata()) == [5, 10]
    assert list(line.get_ydata()) == pytest.approx(means.tolist())
    (band,) = axes.collections
    deviation = values.groupby("step").std().loc[10]
    ends = [y for x, y in band.get_paths()[0].vertices if x == 10]
    assert (min(ends), max(ends)) == pytest.approx((means[10] - deviation, means[10] + deviation))
    single = etude.Runs([runs[0]]).plot_over_steps(previous_token_scores, length=4)
    assert all(len(each.collections) == 0 for each in single.axes)


LEVELS = ["label", "seed", "step"]


def test_different_steps_of_seeds_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    index = pd.MultiIndex.from_tuples(
        [("a", 0, 5), ("a", 0, 10), ("a", 1, 10), ("b", 0, 5), ("b", 1, 5)], names=LEVELS
    )
    values = pd.Series([1.0, 2.0, 4.0, 5.0, 7.0], index=index)
    report_different_steps(values)
    (record,) = caplog.records
    assert record.getMessage().startswith("a: not all seeds have a checkpoint at the steps 5; ")
    figure = draw_over_steps(values, "value")
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
             for axes in figure.axes for line in axes.lines}  # fmt: skip
    assert drawn == {"a": ([10], [3]), "b": ([5], [6])}


NOTEBOOK = """
FACTOR = 2.0

def helper(x):
    return FACTOR * x

def measure(model):
    return helper(1.0)

def unknown(model):
    return float(len(thing))

thing = object.__new__(type("Thing", (), {"__len__": lambda self: COUNT[0]}))
COUNT = [3]
"""


def test_what_a_function_of_a_notebook_reads_is_part_of_it(run: Any) -> None:
    cell = types.ModuleType("cell_of_a_notebook")
    sys.modules[cell.__name__] = cell
    linecache.cache["<cell>"] = (len(NOTEBOOK), None, NOTEBOOK.splitlines(True), "<cell>")
    try:
        exec(compile(NOTEBOOK, "<cell>", "exec"), cell.__dict__)
        assert run.over_steps(cell.measure).tolist() == [2, 2]
        cell.FACTOR = 5.0
        assert run.over_steps(cell.measure).tolist() == [5, 5]
        cell.helper = lambda x: 7.0
        assert run.over_steps(cell.measure).tolist() == [7, 7]
        assert run.over_steps(cell.unknown).tolist() == [3, 3]
        cell.COUNT[0] = 4
        assert run.over_steps(cell.unknown).tolist() == [4, 4]  # not stored
    finally:
        del sys.modules[cell.__name__], linecache.cache["<cell>"]


def test_arguments_with_and_without_a_hash(run: Any) -> None:
    def count() -> int:
        return len(list((run.path / "measures").glob("*.json")))

    before = count()
    assert run.over_steps(scaled, torch.tensor([2.0])).tolist() == [2, 2]
    assert run.over_steps(scaled, np.array([3.0])).tolist() == [3, 3]
    assert count() == before + 2
    for value in (pd.Series([4.0]), array.array("d", [4.0]), memoryview(b"4")):
        run.over_steps(scaled, value)
    assert count() == before + 2


def scaled(model: Any, values: Any) -> float:
    """A measure that returns the first of its values."""
    return float(values[0])
