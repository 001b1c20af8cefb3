"""Figures about a classifier's predictions: confusion matrix and reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from etude.analysis.curves import COLOURS, new_figure, save_figure
from etude.escaping import figure_label
from etude.records.opening import FIGURE

NUMBERED = 12
"""Maximum number of labels for which each cell shows its count."""


def confusion_figure(counts: Any, labels: Sequence[str], path: Path) -> Path:
    """Draws a confusion matrix: the number of examples for each pair of label and prediction.

    A cell is darker if it contains a larger fraction of its label's examples.

    Args:
        counts: numbers of examples, an array with a row for each label and a column for each
            predicted label.
        labels: names of the labels.
        path: path of the figure, which is returned.
    """
    counts = np.asarray(counts)
    totals = np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(labels)
    labels = [figure_label(label) for label in labels]
    side = min(12.0, 2.6 + 0.42 * size)
    figure = new_figure(side + 0.8, side)
    axes = figure.add_subplot()
    image = axes.imshow(counts / totals, cmap="Blues", vmin=0, vmax=1)
    small = 9 if size <= NUMBERED else 6
    axes.set_xticks(range(size), labels, rotation=90 if size > 4 else 0, fontsize=small)
    axes.set_yticks(range(size), labels, fontsize=small)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    if size <= NUMBERED:
        for row in range(size):
            for column in range(size):
                dark = counts[row, column] / totals[row, 0] > 0.5
                axes.text(
                    column,
                    row,
                    f"{counts[row, column]:,}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="white" if dark else "#333333",
                )
    figure.colorbar(image, label="fraction of the label", shrink=0.85)
    return save_figure(figure, path, FIGURE)


def calibration_figure(bins: Sequence[tuple[float, float, int]], error: float, path: Path) -> Path:
    """Draws a reliability diagram: accuracy and number of examples against confidence.

    See Guo et al. 2017, figure 1.

    Args:
        bins: for each bin of confidence: mean confidence, accuracy and number of examples.
        error: expected calibration error.
        path: path of the figure, which is returned.
    """
    figure = new_figure(4.6, 5.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    width = 1 / len(bins)
    centres = (np.arange(len(bins)) + 0.5) * width
    filled = [count > 0 for _, _, count in bins]
    accuracy = [a if is_filled else 0.0 for (_, a, _), is_filled in zip(bins, filled, strict=True)]
    above.bar(centres, accuracy, width * 0.94, color=COLOURS[0], label="accuracy")
    points = [(c, a) for (c, a, _), is_filled in zip(bins, filled, strict=True) if is_filled]
    above.plot(*zip(*points, strict=True), "o", color=COLOURS[1], label="at mean confidence")
    above.plot([0, 1], [0, 1], color="#777777", linewidth=1, linestyle="--")
    above.set_ylabel("accuracy")
    above.set_title(f"expected calibration error {error:.3f}", fontsize=10)
    above.legend(fontsize=8, loc="upper left", frameon=False)
    below.bar(centres, [count for _, _, count in bins], width * 0.94, color="#9aa5b1")
    below.set_xlabel("confidence")
    below.set_ylabel("examples")
    below.set_xlim(0, 1)
    return save_figure(figure, path, FIGURE)
