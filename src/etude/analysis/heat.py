"""Heat map of a metric over two axes of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.analysis.axis_ranges import value_range
from etude.analysis.curves import COLOUR_MAP, new_figure, shorten
from etude.escaping import figure_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HORIZONTAL = 10
"""Maximum length of a horizontal label of a column."""
_MAX_LENGTH = 30
"""Maximum length of a label; Chinese characters count twice."""


def heat_map(values: Mapping[tuple[Any, Any], float], *, x: str, y: str, metric: str) -> Figure:
    """Draws a heat map with a field for each combination of an x value and a y value.

    A field shows the value of the metric. Fields without a value are empty.

    Args:
        values: value of the metric for each pair (x value, y value).
        x: name of the x axis.
        y: name of the y axis.
        metric: name of the metric.
    """
    columns, rows = (_sorted_values({pair[axis] for pair in values}) for axis in (0, 1))
    grid = np.full((len(rows), len(columns)), np.nan)
    for (column, row), value in values.items():
        grid[rows.index(row), columns.index(column)] = value
    labels_x, labels_y = (
        [shorten(_format_value(v), _MAX_LENGTH) for v in vs] for vs in (columns, rows)
    )
    is_long = max(map(len, labels_x)) > _HORIZONTAL
    height_x = 0.05 * max(map(len, labels_x)) if is_long else 0.0
    width_y = 0.08 * max(map(len, labels_y))
    figure = new_figure(2.2 + width_y + 0.95 * len(columns), 1.6 + height_x + 0.55 * len(rows))
    axes = figure.subplots()
    low, high = value_range(float(np.nanmin(grid)), float(np.nanmax(grid)))
    image = axes.imshow(grid, cmap=COLOUR_MAP, vmin=low, vmax=high, aspect="auto")
    axes.set_xticks(range(len(columns)), labels_x)
    axes.set_yticks(range(len(rows)), labels_y)
    if is_long:
        axes.tick_params(axis="x", labelrotation=45)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_xlabel(figure_label(x))
    axes.set_ylabel(figure_label(y))
    span = np.nanmax(grid) - np.nanmin(grid) or 1.0
    digits = max(0, 2 - int(np.floor(np.log10(span))))
    form = f".{digits}f" if digits <= 6 or np.nanmax(np.abs(grid)) >= 1e-3 else ".2e"
    for row, column in np.argwhere(np.isfinite(grid)):
        value = grid[row, column]
        dark = (value - low) / (high - low) < 0.5
        colour = "white" if dark else "black"
        axes.text(column, row, f"{value:{form}}", ha="center", va="center", color=colour)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes).set_label(figure_label(metric))
    return figure


def _sorted_values(values: set[Any]) -> list[Any]:
    """Returns a list of the values: numbers in ascending order, then all others by their text."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return [*sorted(numbers), *sorted(values - set(numbers), key=str)]


def _format_value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else figure_label(str(value))
