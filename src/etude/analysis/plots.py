"""Figures of a single run, as PNG files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from etude.analysis.axis_ranges import set_value_range
from etude.analysis.curves import COLOURS, new_figure, save_figure, shorten, style_axes
from etude.escaping import figure_label
from etude.records.opening import FIGURE

TRAIN, VALIDATION = "#9aa5b1", COLOURS[1]


def loss_curve(
    rows: Iterable[Mapping[str, Any]], path: Path, title: str = "", unit: str = "nats per token"
) -> None:
    """Draws training and validation loss over the steps, and labels the lowest validation loss.

    The lines connect the rows that contain the loss. A loss that is null (not finite) is a gap.

    Args:
        rows: rows of `metrics.jsonl`.
        path: path of the PNG file.
        title: title above the axes.
        unit: unit of the loss.
    """
    # Fixed margins avoid the layout computation, which takes as long as drawing.
    name = figure_label(shorten(title))
    width, height, above = 7.0, 4.2, 0.31 if name else 0.12
    figure = new_figure(width, height, arranged=False)
    left, below, right = 0.85, 0.55, 0.15
    size = ((width - left - right) / width, (height - below - above) / height)
    axes = figure.add_axes((left / width, below / height, *size))
    train: tuple[list[int], list[float]] = ([], [])
    validation: tuple[list[int], list[float]] = ([], [])
    for row in rows:
        for (steps, values), key in ((train, "train/loss"), (validation, "val/loss")):
            if key in row:  # null is a loss that is not finite; the line has a gap there
                steps.append(row["step"])
                values.append(math.nan if row[key] is None else row[key])
    axes.plot(*train, color=TRAIN, linewidth=1.2, label="train")
    axes.plot(*validation, color=VALIDATION, linewidth=1.8, marker="o", markersize=4, label="val")
    finite = [index for index, value in enumerate(validation[1]) if math.isfinite(value)]
    if finite:
        best = min(finite, key=validation[1].__getitem__)
        axes.annotate(
            f"{validation[1][best]:.3f}",
            (validation[0][best], validation[1][best]),
            textcoords="offset points",
            xytext=(0, 9),
            ha="center",
            color=VALIDATION,
        )
    set_value_range(axes, [np.array(values, dtype=np.float64) for _, values in (validation, train)])
    axes.set_xlabel("step")
    axes.set_ylabel(figure_label(f"loss ({unit})"))
    axes.set_title(name, fontsize=10)
    style_axes(axes)
    axes.legend(frameon=False)
    save_figure(figure, path, FIGURE, metadata={"Software": None})
