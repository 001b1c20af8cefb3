"""Compares errors by number of examples, read from runs, with the theory of least squares."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from etude.errors import InvalidArguments
from etude_papers.in_context import InContext, last_errors, least_squares


def run(*errors: float) -> Any:
    """Run with two validations; the last one is read."""
    columns = {f"val/error/{number}": [9.0, math.nan, e] for number, e in enumerate(errors)}
    frame = pd.DataFrame({"step": [1, 2, 3], "val/loss": [9.0, 8.0, 7.0], **columns})
    return SimpleNamespace(metrics=frame, status="finished", summary={"seed": 0})


def measurement(**changes: Any) -> InContext:
    stated: dict[str, Any] = {
        "errors": "val/error",
        "dimensions": 2,
        "values": {"two": {"run": "trained", "metric": "val/error/2"}},
        "controls": {"two": {"run": "control", "metric": "val/error/2"}},
        "curves": [],
    }
    return InContext(**stated | changes)


def test_the_last_errors_by_number() -> None:
    assert last_errors(run(1.0, 0.5, 0.1), "val/error") == {0: 1.0, 1: 0.5, 2: 0.1}
    assert last_errors(run(), "val/error") == {}


def test_the_theory_is_what_least_squares_errs_by() -> None:
    d, random = 4, np.random.default_rng(0)
    expected = least_squares(np.arange(7), d)
    assert expected.tolist() == [1, 0.75, 0.5, 0.25, 0, 0, 0]
    for k in range(1, 6):
        squared = []
        for _ in range(3000):
            w, x, query = random.normal(size=d), random.normal(size=(k, d)), random.normal(size=d)
            found = np.linalg.lstsq(x, x @ w, rcond=None)[0]
            squared.append((query @ (found - w)) ** 2 / d)
        assert np.mean(squared) == pytest.approx(expected[k], abs=0.05)


def test_readings_and_the_figure(tmp_path: Path) -> None:
    runs = {
        "trained": [run(1.0, 0.5, 0.1), run(1.0, 0.6, 0.2)],
        "control": [run(1.0, 1.0, 1.0)],
        "gone": [],
    }
    found = measurement().read(runs, tmp_path)["two"]
    assert found.values == [0.1, 0.2]
    assert found.controls == [1.0]
    assert imread(tmp_path / "errors.png").shape[0] > 300


def test_without_runs_nothing_is_drawn(tmp_path: Path) -> None:
    assert measurement().read({}, tmp_path) == {}
    assert not [*tmp_path.iterdir()]


def test_what_cannot_be() -> None:
    with pytest.raises(InvalidArguments, match="dimensions"):
        measurement(dimensions=0)
