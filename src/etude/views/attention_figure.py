"""Figures of attention weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.analysis.curves import COLOUR_MAP, new_figure, shorten
from etude.escaping import figure_label
from etude.views.attention_weights import ALL, MEAN, Weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from etude.views.attention_page import AttentionPart

MOST_LABELS = 48
"""Largest number of tokens that are labelled on an axis; of more, some are labelled."""
_LABELLED = 4
"""Largest number of matrices that are drawn with their tokens."""
_SMALL = 64


def draw_heads(parts: Sequence[AttentionPart]) -> Figure:
    """Draws attention weights.

    Up to 4 matrices of a part, and the mean of all layers, are drawn with their tokens. More are
    drawn as a grid of small matrices, layers by heads; each cell of it has the largest of the
    weights that it covers.
    """
    panels = [panel for part in parts for panel in _panels(part)]
    columns = min(2, len(panels))
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    widths = [max(row[i].width for row in rows if i < len(row)) for i in range(columns)]
    heights = [max(panel.height for panel in row) for row in rows]
    figure = new_figure(sum(widths) + 0.9, sum(heights))
    ratios: dict[str, Any] = {"width_ratios": widths, "height_ratios": heights}
    grid = figure.subplots(len(rows), columns, squeeze=False, **ratios)
    for axes, panel in zip(grid.flat, panels, strict=False):
        image = panel.draw(axes)
        axes.spines[:].set(color="#999999", linewidth=0.6)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    ticks = [0, 0.05, 0.25, 0.5, 1]
    shown = list(grid.flat[: len(panels)])
    bar = figure.colorbar(image, ax=shown, ticks=ticks, format="{x:g}", shrink=0.8, aspect=30)
    bar.set_label("attention weight")
    return figure


@dataclass(frozen=True)
class _Panel:
    """A part of a figure: its size in inches, and the function that draws it into axes."""

    width: float
    height: float
    draw: Callable[[Any], Any]


def _panels(part: AttentionPart) -> list[_Panel]:
    matrices = _named(part)
    if len(matrices) <= _LABELLED:
        return [_labelled(part, name, matrix) for name, matrix in matrices]
    means = [_labelled(part, *matrices[0])] if ALL in part.weights else []
    weights = {layer: heads for layer, heads in part.weights.items() if layer != ALL}
    rows, columns = len(weights), max(len(heads) for heads in weights.values())
    size = min(1.0, 7.0 / max(rows, columns))
    draw = partial(_draw_grid, part=part, weights=weights)
    return [*means, _Panel(size * columns + 0.9, size * rows + 0.9, draw)]


def _labelled(part: AttentionPart, name: str, matrix: np.ndarray) -> _Panel:
    height, width = (
        1.2 + 0.17 * min(MOST_LABELS, max(len(text.ids), 6)) for text in (part.queries, part.keys)
    )
    return _Panel(width, height, partial(_draw_matrix, part=part, name=name, matrix=matrix))


def name_of(layer: str, head: str) -> str:
    """Returns the title of the weights of a head, or of a mean."""
    if layer == ALL:
        return "mean of all layers and heads"
    return f"layer {layer}, mean of heads" if head == MEAN else f"layer {layer}, head {head}"


def _named(part: AttentionPart) -> list[tuple[str, np.ndarray]]:
    return [
        (name_of(layer, head), matrix)
        for layer, heads in part.weights.items()
        for head, matrix in heads.items()
    ]


def _draw_matrix(axes: Any, part: AttentionPart, name: str, matrix: np.ndarray) -> Any:
    image = _show(axes, _without_hidden(matrix, part.causal))
    for side, text in (("y", part.queries), ("x", part.keys)):
        step = -(-len(text.labels) // MOST_LABELS)
        labels = [figure_label(shorten(label, 14)) for label in text.labels[::step]]
        ticks = range(0, len(text.labels), step)
        axes.set(**{f"{side}ticks": ticks, f"{side}ticklabels": labels})
    axes.tick_params(labelsize=8, length=2)
    axes.tick_params(axis="x", labelrotation=90)
    axes.set_title(name, fontsize=9)
    axes.set(xlabel=part.key_name, ylabel=part.query_name)
    return image


def _draw_grid(axes: Any, part: AttentionPart, weights: Weights) -> Any:
    """Draws several matrices as one image, with a white line between them."""
    columns = list(dict.fromkeys(head for heads in weights.values() for head in heads))
    small = [[_pooled(_without_hidden(heads[head], part.causal)) if head in heads else None
              for head in columns] for heads in weights.values()]  # fmt: skip
    height, width = next(each.shape for row in small for each in row if each is not None)
    gap = max(1, round(0.05 * max(height, width)))
    canvas = np.full(
        (len(small) * (height + gap) - gap, len(columns) * (width + gap) - gap), np.nan
    )
    for i, row in enumerate(small):
        for j, each in enumerate(row):
            if each is not None:
                top, left = i * (height + gap), j * (width + gap)
                canvas[top : top + height, left : left + width] = each
    image = _show(axes, canvas)
    axes.set_xticks([j * (width + gap) + width / 2 for j in range(len(columns))], columns)
    axes.set_yticks([i * (height + gap) + height / 2 for i in range(len(small))], weights)
    axes.tick_params(labelsize=8, length=0)
    axes.set(xlabel="head", ylabel="layer")
    axes.set_title(part.title, fontsize=9)
    return image


def _show(axes: Any, values: np.ndarray) -> Any:
    from matplotlib.colors import PowerNorm

    # The square root makes small weights visible, as in the page.
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    return axes.imshow(values, cmap=COLOUR_MAP, norm=norm, interpolation="nearest")


def _without_hidden(matrix: np.ndarray, causal: bool) -> np.ndarray:
    """Returns a copy in which the weights that a causal mask hides are NaN."""
    hidden = np.triu(np.ones_like(matrix, dtype=bool), 1) & causal
    return np.where(hidden, np.nan, matrix)


def _pooled(matrix: np.ndarray) -> np.ndarray:
    """Returns a matrix of at most 64 x 64 cells, each the largest of the weights that it covers."""
    step = -(-max(matrix.shape) // _SMALL)
    rows, columns = (-(-size // step) for size in matrix.shape)
    padded = np.full((rows * step, columns * step), -np.inf)
    padded[: matrix.shape[0], : matrix.shape[1]] = np.nan_to_num(matrix, nan=-np.inf)
    pooled = padded.reshape(rows, step, columns, step).max((1, 3))
    return np.where(np.isfinite(pooled), pooled, np.nan)
