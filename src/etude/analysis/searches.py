"""Figures of a hyperparameter search: history, importances, and slices of the objective."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.analysis.axis_ranges import set_value_range
from etude.analysis.curves import COLOURS, new_figure, save_figure, style_axes
from etude.analysis.search_slices import (
    CROSSES,
    DOTS,
    PRUNED,
    finished_trials,
    metric_name,
    pair,
    pruned_trials,
    slices,
)
from etude.escaping import figure_label
from etude.records.opening import FIGURE, path_exists

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger("etude")


def draw_search(folder: Path) -> list[Path]:
    """Draws the figures of a hyperparameter search, and saves them in the folder `figures`.

    Args:
        folder: the sweep's folder; its folder `figures` is created if missing.

    Returns:
        The paths of the figures; empty if the sweep is not a search, or has fewer than two finished
        trials.
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
    if (figure_of_slices := slices(study)) is not None:
        drawn["slices"] = figure_of_slices
    if (figure_of_pair := pair(study, _importances(study) or {})) is not None:
        drawn["pair"] = figure_of_pair
    paths = {name: folder / "figures" / f"{name}.png" for name in drawn}
    return [save_figure(figure, paths[name], FIGURE) for name, figure in drawn.items()]


def history(study: Any) -> Figure:
    """Plots the objective of each trial in the order of the trials, and the best value so far.

    The objective of a pruned trial is its last validation value.

    Args:
        study: Optuna study of the search.
    """
    from optuna.study import StudyDirection

    figure, axes = _figure(6.4, 4.0)
    done, pruned = finished_trials(study), pruned_trials(study)
    numbers = [trial.number + 1 for trial, _ in done]
    values, last = (np.array([value for _, value in trials]) for trials in (done, pruned))
    least = study.direction is StudyDirection.MINIMIZE
    best = np.minimum.accumulate(values) if least else np.maximum.accumulate(values)
    axes.plot(numbers, values, label="finished", **DOTS)
    if pruned:
        axes.plot([trial.number + 1 for trial, _ in pruned], last, label=PRUNED, **CROSSES)
    axes.step(numbers, best, where="post", color=COLOURS[1], linewidth=1.7, label="best so far")
    set_value_range(axes, [best, values], [last])
    axes.set_xlabel("trial")
    axes.set_ylabel(metric_name(study))
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=8.5)
    return figure


def importance(study: Any) -> Figure | None:
    """Plots the importance of each hyperparameter: its influence on whether a trial is good.

    The importance is computed by PED-ANOVA (Watanabe et al. 2023).

    Args:
        study: Optuna study of the search.

    Returns:
        The figure; None if there are fewer than two hyperparameters, or if PED-ANOVA cannot be
        computed, such as with too few finished trials.
    """
    importances = _importances(study)
    if importances is None or len(importances) < 2:
        return None
    names = [figure_label(name.lstrip("+")) for name in importances]
    figure, axes = _figure(6.4, 1.2 + 0.45 * len(names))
    axes.barh(names[::-1], list(importances.values())[::-1], color=COLOURS[0], height=0.6)
    axes.set_xlabel("importance (PED-ANOVA)")
    return figure


def _importances(study: Any) -> dict[str, float] | None:
    """Returns a dict from each hyperparameter to its importance; None if it cannot be computed.

    It cannot be computed if Optuna raises an error, such as for too few finished trials, or if an
    importance is not finite.
    """
    import optuna

    try:
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        importances = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        log.debug("could not compute importances: %s", error)
        return None
    return importances if np.isfinite(list(importances.values())).all() else None


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = new_figure(width, height)
    axes = figure.subplots()
    style_axes(axes)
    return figure, axes
