"""Measures over saved steps: means and intervals over seeds, and curves with bands."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.analysis.curves import COLOURS, STYLES, new_figure, shorten, style_axes
from etude.analysis.statistics import interval
from etude.escaping import figure_label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger("etude")

_MAX_COLOURS = len(COLOURS)


def mean_over_seeds(values: pd.Series) -> pd.DataFrame:
    """Returns statistics over the seeds of a measure, for each combination of the other levels.

    Args:
        values: result of `Runs.over_steps`, with the index level `seed`.

    Returns:
        A data frame with the columns `n` (number of seeds), `mean`, `std` (standard deviation), and
        the 95 % interval of the mean, `low` to `high`, which is NaN for fewer than three seeds (see
        `etude.analysis.statistics.interval`).
    """
    import pandas as pd

    levels = [level for level in values.index.names if level != "seed"]
    groups = values.groupby(level=levels, sort=False)
    table = groups.agg(["size", "mean", "std"]).rename(columns={"size": "n"})
    ends = [interval(group.tolist()) or (np.nan, np.nan) for _, group in groups]
    return table.join(pd.DataFrame(ends, index=table.index, columns=["low", "high"]))


def report_different_steps(values: pd.Series) -> None:
    """Logs a warning if seeds of a label have checkpoints at different steps.

    Args:
        values: result of `Runs.over_steps`.
    """
    steps = values.index.to_frame(index=False).groupby(["label", "seed"])["step"].agg(frozenset)
    for label, sets in steps.groupby(level="label"):
        shared, every = frozenset.intersection(*sets), frozenset.union(*sets)
        if shared != every:
            log.warning(
                "%s: not all seeds have a checkpoint at the steps %s; to save checkpoints at the "
                "same steps, train with run.save_every=N and run.keep_every=N",
                label or "runs",
                ", ".join(map(str, sorted(every - shared)[:8])),
            )


def draw_over_steps(values: pd.Series, title: str) -> Figure:
    """Draws the values of a measure over the steps: means over the seeds, with bands.

    There is one panel per layer, if the values have the level `layer`. A colour represents a
    combination of the other levels, such as a head, and a line style a label. The band has one
    standard deviation on each side; with a single seed, there is none. Steps that some seeds of a
    label lack are left out.

    Args:
        values: result of `Runs.over_steps`, with the levels `label`, `seed` and `step`.
        title: title of the figure.
    """
    by_layer = "layer" in values.index.names
    panels = dict(iter(values.groupby(level="layer", sort=False))) if by_layer else {"": values}
    figure = new_figure(4.4 * len(panels) + 2.4, 4.0)
    grid: Any = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    labels = _short_labels(list(values.index.unique("label")))
    looks: dict[tuple[Any, ...], dict[str, Any]] = {}
    for axes, (layer, of_layer) in zip(grid, panels.items(), strict=True):
        _panel(axes, of_layer, labels, looks)
        style_axes(axes)
        axes.set(xlabel="step", title=f"layer {layer!s}" if by_layer else "")
    grid[0].set_ylabel(figure_label(title))
    handles = {line.get_label(): line for axes in grid for line in axes.lines}
    if len(handles) > 1:
        figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
    seeds = values.index.unique("seed").size
    if seeds > 1:
        text = f"mean of {seeds} seeds, ± one standard deviation"
        figure.suptitle(text, fontsize=10.5, x=0.01, ha="left")
    return figure


def _panel(
    axes: Axes,
    values: pd.Series,
    labels: dict[str, str],
    looks: dict[tuple[Any, ...], dict[str, Any]],
) -> None:
    """Draws a curve for each label and each combination of the levels below the layer.

    Args:
        axes: the panel.
        values: the values of a layer.
        labels: short text of each label.
        looks: colours of the combinations, which all panels share; this function adds new ones.
    """
    others = [n for n in values.index.names if n not in ("label", "seed", "step", "layer")]
    for key, group in values.groupby(level=["label", *others], sort=False):
        label, *parts = map(str, key if isinstance(key, tuple) else (key,))
        look = looks.setdefault(tuple(parts), {"color": COLOURS[len(looks) % _MAX_COLOURS]})
        style = list(labels).index(label)
        names = [labels[label], *(f"{n} {p}" for n, p in zip(others, parts, strict=True))]
        by_step = group.groupby(level="step").agg(["mean", "std", "size"])
        by_step = by_step[by_step["size"] == by_step["size"].max()]
        x, y = by_step.index.to_numpy(np.float64), by_step["mean"].to_numpy(np.float64)
        text = figure_label(shorten(" ".join(filter(None, names))))
        axes.plot(x, y, label=text, linestyle=STYLES[style % len(STYLES)], **look)
        spread = by_step["std"].to_numpy(np.float64)
        if not np.isnan(spread).all():
            axes.fill_between(x, y - spread, y + spread, alpha=0.2, linewidth=0, **look)


def _short_labels(labels: Sequence[str]) -> dict[str, str]:
    """Returns a short text for each label: the overrides that not all labels contain."""
    words = [label.split() for label in labels]
    common = set.intersection(*map(set, words))
    return {
        label: " ".join(word for word in parts if word not in common)
        for label, parts in zip(labels, words, strict=True)
    }
