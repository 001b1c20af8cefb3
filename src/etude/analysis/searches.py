"""Figures of a search: its history, and the importance of its axes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.analysis.curves import COLOURS, new_figure, save_figure, style_axes
from etude.escaping import figure_label
from etude.records.opening import FIGURE, path_exists

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger("etude")


def draw_search(folder: Path) -> list[Path]:
    """Draws `figures/history.png` and `figures/importance.png` into a sweep's record.

    Returns:
        The paths; empty for a sweep that is not a search, or has fewer than two finished trials.
    """
    from etude.sweeps.search import JOURNAL, load_study

    if not path_exists(folder / JOURNAL):
        return []
    study = load_study(folder)
    from optuna.trial import TrialState

    done = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    if len(done) < 2:
        return []
    drawn = {"history": history(study)}
    if (figure_of_importance := importance(study)) is not None:
        drawn["importance"] = figure_of_importance
    paths = {name: folder / "figures" / f"{name}.png" for name in drawn}
    return [save_figure(figure, paths[name], FIGURE) for name, figure in drawn.items()]


def history(study: Any) -> Figure:
    """Plots the values of finished and pruned trials in their order, and the best value so far."""
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

    figure, axes = _figure(6.4, 4.0)
    states = {state: [t for t in study.trials if t.state is state] for state in TrialState}
    done = states[TrialState.COMPLETE]
    numbers = [trial.number + 1 for trial in done]
    values = np.array([trial.value for trial in done])
    least = study.direction is StudyDirection.MINIMIZE
    best = np.minimum.accumulate(values) if least else np.maximum.accumulate(values)
    axes.plot(numbers, values, "o", color=COLOURS[0], markersize=5, label="finished")
    pruned = [t for t in states[TrialState.PRUNED] if t.intermediate_values]
    if pruned:
        last = [t.intermediate_values[max(t.intermediate_values)] for t in pruned]
        at = [trial.number + 1 for trial in pruned]
        axes.plot(at, last, "x", color=COLOURS[5], markersize=6, label="pruned (last value)")
    axes.step(numbers, best, where="post", color=COLOURS[1], linewidth=1.7, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel("value of the trial")
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.legend(frameon=False, fontsize=8.5)
    return figure


def importance(study: Any) -> Figure | None:
    """Plots the importance of each axis for good trials, by PED-ANOVA (Watanabe et al. 2023).

    Returns:
        The figure; None if there are too few trials, or a single axis.
    """
    import optuna

    try:
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        importances = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        log.debug("could not compute importances: %s", error)
        return None
    finite = [share for share in importances.values() if np.isfinite(share)]
    if len(importances) < 2 or len(finite) < len(importances):
        return None
    names = [figure_label(name.lstrip("+")) for name in importances]
    figure, axes = _figure(6.4, 1.2 + 0.45 * len(names))
    axes.barh(names[::-1], finite[::-1], color=COLOURS[0], height=0.6)
    axes.set_xlabel("importance (PED-ANOVA)")
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = new_figure(width, height)
    axes = figure.subplots()
    style_axes(axes)
    return figure, axes
