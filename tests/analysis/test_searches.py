"""Tests of a search's figures: each trial is drawn at its parameters and value."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from etude.analysis.search_slices import pair, slices
from etude.analysis.searches import history

RATES = [1e-4, 1e-3, 1e-2, 1e-1]
DROPOUTS = [0.0, 0.3, 0.1, 0.2]
VALUES = [3.0, 2.0, 2.5, 4.0]


@pytest.fixture
def study() -> Any:
    """Three finished trials and a pruned one."""
    study = optuna.create_study()
    distributions = {
        "optimizer.lr": FloatDistribution(1e-5, 1.0, log=True),
        "model.dropout": FloatDistribution(0, 0.5),
        "model.position": CategoricalDistribution(("rotary", "alibi")),
    }
    for number, (rate, dropout, value) in enumerate(zip(RATES, DROPOUTS, VALUES, strict=True)):
        pruned = number == 3
        study.add_trial(
            create_trial(
                params={
                    "optimizer.lr": rate,
                    "model.dropout": dropout,
                    "model.position": ("rotary", "alibi")[number % 2],
                },
                distributions=distributions,
                value=None if pruned else value,
                intermediate_values={10: 9.0, 20: value} if pruned else {},
                state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
            )
        )
    return study


def test_slices_show_each_trial(study: Any) -> None:
    figure = slices(study)
    assert figure is not None
    panels: dict[str, Any] = {axes.get_xlabel(): axes for axes in figure.axes}
    assert set(panels) == {"optimizer.lr", "model.dropout", "model.position"}
    for name, x in (("optimizer.lr", RATES), ("model.dropout", DROPOUTS)):
        done, pruned = panels[name].get_lines()
        assert np.allclose(done.get_xydata(), list(zip(x[:3], VALUES[:3], strict=True)))
        assert np.allclose(pruned.get_xydata(), [(x[3], VALUES[3])])  # its last value, not 9
        assert pruned.get_marker() == "x"
        low, high = panels[name].get_ylim()
        assert low < 2 < 4 < high
    assert panels["optimizer.lr"].get_xscale() == "log"
    done, pruned = panels["model.position"].get_lines()
    assert list(done.get_xdata()) == [0, 1, 0]
    assert [t.get_text() for t in panels["model.position"].get_xticklabels()] == ["rotary", "alibi"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "finished",
        "pruned (last value)",
    ]


def test_the_pair_is_of_the_most_important_numeric_axes(study: Any) -> None:
    figure = pair(study, {"optimizer.lr": 0.2, "model.dropout": 0.7, "model.position": 0.1})
    assert figure is not None
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("model.dropout", "optimizer.lr")
    (dots,) = axes.collections
    expected = list(zip(DROPOUTS[:3], RATES[:3], strict=True))
    assert np.allclose(np.asarray(dots.get_offsets()), expected)
    assert list(np.asarray(dots.get_array())) == VALUES[:3]
    (crosses,) = axes.get_lines()
    assert np.allclose(crosses.get_xydata(), [(DROPOUTS[3], RATES[3])])


def test_the_history_covers_pruned_trials(study: Any) -> None:
    low, high = history(study).axes[0].get_ylim()
    assert low < 2 < 4 < high


def test_no_pair_of_one_axis() -> None:
    study = optuna.create_study()
    for x in (0.1, 0.2):
        trial = create_trial(params={"a": x}, distributions={"a": FloatDistribution(0, 1)}, value=x)
        study.add_trial(trial)
    assert pair(study, {}) is None
    figure = slices(study)
    assert figure is not None
    assert len(figure.axes) == 1
