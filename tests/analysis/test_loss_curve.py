"""The figure of a run's losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etude.analysis import plots

ROWS = [
    {"step": 1, "train/loss": 3.0},
    {"step": 2, "train/loss": 2.5, "val/loss": 2.75},
    {"step": 3, "train/loss": None},
    {"step": 4, "train/loss": 2.0, "val/loss": None},
    {"step": 5, "train/loss": 1.5, "val/loss": 1.25},
    {"step": 6, "train/loss": 1.0, "val/loss": 1.75},
]


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    saved: list[Any] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, *_, **__: saved.append(figure))
    plots.loss_curve(ROWS, tmp_path / "loss.png", title="run")
    return saved[0]


def test_losses_that_are_not_finite_are_gaps(figure: Any) -> None:
    train, validation = figure.axes[0].lines
    assert np.array_equal(train.get_xdata(), [1, 2, 3, 4, 5, 6])
    assert np.array_equal(train.get_ydata(), [3, 2.5, np.nan, 2, 1.5, 1], equal_nan=True)
    assert np.array_equal(validation.get_xdata(), [2, 4, 5, 6])
    assert np.array_equal(validation.get_ydata(), [2.75, np.nan, 1.25, 1.75], equal_nan=True)


def test_the_best_validation_is_marked(figure: Any) -> None:
    (mark,) = figure.axes[0].texts
    assert mark.get_text() == "1.250"
    assert mark.xy == (5, 1.25)
    low, high = figure.axes[0].get_ylim()
    assert low < 1 < 3 < high
