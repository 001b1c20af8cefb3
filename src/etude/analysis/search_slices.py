"""Figures of a hyperparameter search: its objective over one and over two hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.analysis.axis_ranges import set_value_range, value_range
from etude.analysis.curves import (
    COLOUR_MAP,
    COLOURS,
    new_figure,
    set_logarithmic,
    shorten,
    style_axes,
)
from etude.escaping import figure_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRUNED = "pruned (last value)"
DOTS: dict[str, Any] = {"marker": "o", "linestyle": "none", "color": COLOURS[0], "markersize": 5}
CROSSES: dict[str, Any] = {"marker": "x", "linestyle": "none", "color": COLOURS[5], "markersize": 6}
_MAX_PANELS = 12


def slices(study: Any) -> Figure | None:
    """Plots the objective over each hyperparameter of a search, in one panel each.

    A dot is a finished trial, a cross is a pruned trial.

    Args:
        study: Optuna study of the search.

    Returns:
        The figure; None if the search has no hyperparameters.
    """
    done, pruned = finished_trials(study), pruned_trials(study)
    names = _axis_names(study)[:_MAX_PANELS]
    if not names:
        return None
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(0.6 + 3.3 * columns, 0.4 + 2.9 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        distribution = _distribution(study, name)
        for trials, style in ((done, DOTS), (pruned, CROSSES)):
            points = [(t.params[name], value) for t, value in trials if name in t.params]
            x = [_position(distribution, choice) for choice, _ in points]
            axes.plot(x, [value for _, value in points], **style)
        _style_axis(axes, "x", name, distribution)
        style_axes(axes)
    for axes in list(grid.flat)[len(names) :]:
        axes.remove()
    values, last = (np.array([value for _, value in trials]) for trials in (done, pruned))
    set_value_range(grid[0, 0], [values], [last])
    for axes in grid[:, 0]:
        axes.set_ylabel(metric_name(study))
    _explain(figure, has_pruned=bool(pruned))
    return figure


def metric_name(study: Any) -> str:
    """Returns the name of the metric that a search optimizes, as a label for an axis."""
    return figure_label(study.user_attrs.get("metric", "value of the trial"))


def pair(study: Any, importances: Mapping[str, float]) -> Figure | None:
    """Plots the trials over two numeric hyperparameters, coloured by the value of the objective.

    Args:
        study: Optuna study of the search.
        importances: importance of each hyperparameter; the two most important are plotted.

    Returns:
        The figure; None if the search has fewer than two numeric hyperparameters, or no finished
        trial has both.
    """
    numeric = [n for n in _axis_names(study) if not hasattr(_distribution(study, n), "choices")]
    numeric.sort(key=lambda name: -importances.get(name, 0.0))
    if len(numeric) < 2:
        return None
    first, second = numeric[:2]
    done, pruned = (
        [(t.params, value) for t, value in trials if first in t.params and second in t.params]
        for trials in (finished_trials(study), pruned_trials(study))
    )
    if not done:
        return None
    figure = new_figure(6.2, 4.6)
    axes = figure.subplots()
    style_axes(axes)
    values = np.array([value for _, value in done])
    low, high = value_range(float(values.min()), float(values.max()))
    dots = axes.scatter(
        [params[first] for params, _ in done],
        [params[second] for params, _ in done],
        c=values,
        cmap=COLOUR_MAP,
        vmin=low,
        vmax=high,
        s=46,
        edgecolors="#333333",
        linewidths=0.5,
    )
    axes.plot([p[first] for p, _ in pruned], [p[second] for p, _ in pruned], **CROSSES)
    for which, name in (("x", first), ("y", second)):
        _style_axis(axes, which, name, _distribution(study, name))
    figure.colorbar(dots, ax=axes).set_label(metric_name(study))
    _explain(figure, has_pruned=bool(pruned))
    return figure


def finished_trials(study: Any) -> list[tuple[Any, float]]:
    """Returns the finished trials of an Optuna study, as pairs (trial, value of the objective)."""
    from optuna.trial import TrialState

    return [(t, float(t.value)) for t in study.trials if t.state is TrialState.COMPLETE]


def pruned_trials(study: Any) -> list[tuple[Any, float]]:
    """Returns the pruned trials of an Optuna study, as pairs (trial, last value of the objective).

    The last value is that of the last validation; trials without a validation are omitted.
    """
    from optuna.trial import TrialState

    return [
        (trial, float(trial.intermediate_values[max(trial.intermediate_values)]))
        for trial in study.trials
        if trial.state is TrialState.PRUNED and trial.intermediate_values
    ]


def _axis_names(study: Any) -> list[str]:
    return list(dict.fromkeys(name for t, _ in finished_trials(study) for name in t.params))


def _distribution(study: Any, name: str) -> Any:
    return next(t.distributions[name] for t in study.trials if name in t.distributions)


def _position(distribution: Any, choice: Any) -> Any:
    """Returns the position of a hyperparameter's value on an axis.

    Args:
        distribution: Optuna distribution of the hyperparameter.
        choice: the value. A categorical value is placed at its index; a number is its own position.
    """
    return distribution.to_internal_repr(choice) if hasattr(distribution, "choices") else choice


def _style_axis(axes: Axes, which: str, name: str, distribution: Any) -> None:
    axes.set(**{f"{which}label": figure_label(name.lstrip("+"))})
    if choices := getattr(distribution, "choices", None):
        labels = [figure_label(shorten(str(choice), 14)) for choice in choices]
        axes.set_xticks(range(len(choices)), labels)
        axes.set_xlim(-0.5, len(choices) - 0.5)
    elif distribution.log:
        set_logarithmic(axes, which)


def _explain(figure: Figure, *, has_pruned: bool) -> None:
    """Adds a legend to a figure of trials: dots are finished, crosses are pruned.

    If no trial was pruned, nothing is added.
    """
    if not has_pruned:
        return
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **DOTS), Line2D([], [], **CROSSES)]
    figure.legend(
        handles,
        ["finished", PRUNED],
        loc="outside upper right",
        ncols=2,
        frameon=False,
        fontsize=8.5,
    )
